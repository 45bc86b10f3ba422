"""A hub on this machine that speaks the real one's protocol for files: real downloads and streams are tested with it.

Large files are answered as the hub does: with their sha256 and a redirect to where the bytes are, in ranges on demand.
Repositories also list their files.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Collection
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import unquote, urlsplit

import pytest
from huggingface_hub import constants, hf_api

LARGE_BYTES = 1000


@dataclass
class HubServer:
    """`files` maps `org/name/revision/file` to content; `requests` lists what was asked for, method and path."""

    files: dict[str, bytes] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    stated: dict[str, str] = field(default_factory=dict)
    """A sha256 to state for a file instead of the true one."""
    gated: Collection[str] = ()
    """Repositories whose files are given to nobody."""
    sent: int = 0
    """Bytes of content that went out."""
    fail_after: int | None = None
    """So many bytes of content are sent; then every request is refused."""

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """End the server: every further request is refused."""
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def stand_in(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let the hub's library take this server for the hub, and let it ask."""
        monkeypatch.setattr(constants, "ENDPOINT", self.endpoint)
        monkeypatch.setattr(hf_api.api, "endpoint", self.endpoint)
        template = self.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)

    def downloaded(self) -> list[str]:
        """Names of the files whose content went out, each as often as it did."""
        return sorted(
            unquote(line.rsplit("/", 1)[-1])
            for line in self.requests
            if line.startswith(("GET /content/", "GET /raw/"))
        )

    def names(self, repository: str, revision: str) -> list[str]:
        """The files of a repository."""
        prefix = f"{repository}/{revision}/"
        return [key.removeprefix(prefix) for key in self.files if key.startswith(prefix)]


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        path = unquote(urlsplit(self.path).path)
        if match := re.fullmatch(
            r"/api/(?:datasets|models)/([^/]+/[^/]+)/(revision|tree)/([^/]+)/?(.*)", path
        ):
            self._described(*match.groups())
            return
        self.path = self.path.removeprefix("/datasets")
        if "/".join(self.path.split("/")[1:3]) in self.hub.gated:
            self._refuse("GatedRepo", status=401)
            return
        if self.path.startswith(("/content/", "/raw/")):
            self._content(self.hub.files[unquote(self.path.split("/", 2)[2])], body)
            return
        match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", self.path)
        if match is None:
            self._refuse("RepoNotFound")
            return
        repo, revision, file = match.groups()
        key = f"{repo}/{revision}/{file}"
        if key not in self.hub.files:
            known = any(name.startswith(f"{repo}/") for name in self.hub.files)
            at = any(name.startswith(f"{repo}/{revision}/") for name in self.hub.files)
            self._refuse("EntryNotFound" if at else "RevisionNotFound" if known else "RepoNotFound", revision)
            return
        content = self.hub.files[key]
        if len(content) < LARGE_BYTES:
            self._content(content, body, {"X-Repo-Commit": revision})
            return
        self.send_response(302)
        elsewhere = self.hub.endpoint.replace("127.0.0.1", "localhost")  # the hub sends to another host
        self.send_header("Location", f"{elsewhere}/content/{key}")
        self.send_header("X-Repo-Commit", revision)
        self.send_header(
            "X-Linked-Etag", f'"{self.hub.stated.get(key) or hashlib.sha256(content).hexdigest()}"'
        )
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _described(self, repository: str, what: str, revision: str, folder: str) -> None:
        names = self.hub.names(repository, revision)
        if not names:
            known = any(key.startswith(f"{repository}/") for key in self.hub.files)
            self._refuse("RevisionNotFound" if known else "RepoNotFound")
        elif what == "revision":
            listed = [{"rfilename": name} for name in names]
            self._json({"id": repository, "sha": revision, "private": False, "tags": [], "siblings": listed})
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
        start, end = 0, len(content)
        if ranged := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            start, end = int(ranged[1]), min(end, int(ranged[2] or end - 1) + 1)
        self.hub.sent += end - start
        self.send_response(206 if ranged else 200)
        if ranged:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(content)}")
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("Content-Length", str(end - start))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(content[start:end])

    def _refuse(self, code: str, revision: str = "", status: int = 404) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        if code == "EntryNotFound":
            self.send_header("X-Repo-Commit", revision)
        self.send_header("Content-Length", "0")
        self.end_headers()
