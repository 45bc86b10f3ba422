"""A model hub on this machine that says of repositories what the real one says, and gives no file.

It answers for repositories, revisions and the headers of files; a gated one refuses headers with 401 without a token,
with 403 to a token that was not let in.
"""

from __future__ import annotations

import json
import re
import threading
import time
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import unquote, urlsplit

SHA = "0123456789abcdef0123456789abcdef01234567"
API = re.compile(r"/api/(?P<kind>model|dataset)s/(?P<name>[^/]+/[^/]+)(/revision/(?P<revision>.+))?")
FILE = re.compile(r"/(?P<kind>datasets/)?(?P<name>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")

LIBRARY = "/api/agent-harnesses"
"""What the hub's library asks for by itself."""


@dataclass
class Repo:
    """File names and sizes at commit `SHA`; `sha256` are those that are stated for large files."""

    files: dict[str, int] = field(default_factory=dict)
    sha256: dict[str, str] = field(default_factory=dict)
    revisions: tuple[str, ...] = ("main", SHA)
    gated: bool = False
    let_in: str | None = None
    delay_s: float = 0.0
    status: int = 200


@dataclass
class HubServer:
    """`repos` by name; `requests` are method and path of what was asked for."""

    repos: dict[str, Repo] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._server.daemon_threads = True
        self._server.block_on_close = False
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def log_message(self, *_: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        path = unquote(urlsplit(self.path).path)
        if path == LIBRARY:
            self._send(404, {})
            return
        self.hub.requests.append(f"{self.command} {path}")
        match = API.fullmatch(path) or FILE.fullmatch(path)
        repo = self.hub.repos.get(match["name"]) if match else None
        if match is None or repo is None:
            self._send(401, {"X-Error-Code": "RepoNotFound"})
            return
        time.sleep(repo.delay_s)
        if repo.status != 200:
            self._send(repo.status, {})
        elif (match["revision"] or "main") not in repo.revisions:
            self._send(404, {"X-Error-Code": "RevisionNotFound"})
        elif match.re is API:
            self._send(200, {}, json.dumps(_described(match["name"], repo)).encode())
        else:
            self._header(repo, match["file"])

    def _header(self, repo: Repo, file: str) -> None:
        token = (self.headers.get("Authorization") or "").removeprefix("Bearer ")
        if repo.gated and (not token or token != repo.let_in):
            self._send(403 if token else 401, {"X-Error-Code": "GatedRepo"})
        elif file not in repo.files:
            self._send(404, {"X-Error-Code": "EntryNotFound"})
        else:
            self._send(200, {"ETag": '"x"', "X-Repo-Commit": SHA, "X-Linked-Size": str(repo.files[file])})

    def _send(self, status: int, headers: dict[str, str], body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _described(name: str, repo: Repo) -> dict[str, Any]:
    siblings = [
        {"rfilename": file, "size": size}
        | (
            {"lfs": {"sha256": repo.sha256[file], "size": size, "pointerSize": 134}}
            if file in repo.sha256
            else {}
        )
        for file, size in repo.files.items()
    ]
    return {"id": name, "sha": SHA, "gated": "manual" if repo.gated else False, "siblings": siblings}
