"""The hub of `tests/rewards` with data set repositories: lists of files, and their bytes in ranges."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Collection
from http.server import ThreadingHTTPServer
from typing import Self
from urllib.parse import unquote, urlsplit

from tests.rewards.hub_server import HubServer, _Handler

DATE = "2024-01-01T00:00:00.000Z"


class DataHub(HubServer):
    """`files` maps `org/name/revision/file` to content; `sent` counts the bytes of content that went out."""

    sent = 0
    fail_after: int | None = None
    """So many bytes of content are sent; then every request is refused with a server error."""
    gated: Collection[str] = ()
    """Repositories whose files are given to nobody."""

    def __enter__(self) -> Self:
        handler = type("Handler", (_DataHandler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def names(self, repository: str, revision: str) -> list[str]:
        prefix = f"{repository}/{revision}/"
        return [key.removeprefix(prefix) for key in self.files if key.startswith(prefix)]


class _DataHandler(_Handler):
    hub: DataHub

    def _answer(self, body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/(revision|tree)/([^/]+)/?(.*)", path):
            self.hub.requests.append(f"{self.command} {self.path}")
            self._described(*match.groups())
            return
        self.path = self.path.removeprefix("/datasets")
        if "/".join(self.path.split("/")[1:3]) in self.hub.gated:
            self._refuse("GatedRepo", status=401)
            return
        super()._answer(body)

    def _described(self, repository: str, what: str, revision: str, folder: str) -> None:
        names = self.hub.names(repository, revision)
        if not names:
            known = any(key.startswith(f"{repository}/") for key in self.hub.files)
            self._refuse("RevisionNotFound" if known else "RepoNotFound")
        elif what == "revision":
            self._json({"id": repository, "sha": revision, "private": False, "tags": [], "siblings": []})
        else:
            recursive = "recursive=true" in self.path.lower()
            self._json(self._tree(repository, revision, names, folder.strip("/"), recursive))

    def _tree(
        self, repository: str, revision: str, names: list[str], folder: str, recursive: bool
    ) -> list[dict[str, object]]:
        prefix = f"{folder}/" if folder else ""
        entries: dict[str, dict[str, object]] = {}
        for name in names:
            parts = name.removeprefix(prefix).split("/") if name.startswith(prefix) else []
            for depth in range(1, len(parts)):
                path = prefix + "/".join(parts[:depth])
                if depth == 1 or recursive:
                    entries[path] = {"type": "directory", "path": path, "oid": "0" * 40, "size": 0}
            if parts and (recursive or len(parts) == 1):
                size = len(self.hub.files[f"{repository}/{revision}/{name}"])
                entries[name] = {"type": "file", "path": name, "oid": "0" * 40, "size": size}
        return list(entries.values())

    def _json(self, value: object) -> None:
        data = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _content(self, content: bytes, body: bool, headers: dict[str, str] | None = None) -> None:
        if self.hub.fail_after is not None and self.hub.sent >= self.hub.fail_after:
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        ranged = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
        first, last = (
            (int(ranged[1]), int(ranged[2] or len(content) - 1)) if ranged else (0, len(content) - 1)
        )
        self.hub.sent += min(last, len(content) - 1) + 1 - first
        super()._content(content, body, headers)
