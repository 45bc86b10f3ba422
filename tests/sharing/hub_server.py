"""A model hub on this machine that speaks the real one's protocol for uploads, so that real pushes can be tested.

It keeps repositories in memory: git's sha1 for small files, sha256 for large ones, which come through the LFS protocol
in one part or several. Lists of files come in pages.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

import yaml

LARGE_SUFFIXES = (".parquet", ".safetensors", ".png")
PAGE = 3
PART_BYTES = 1_000_000
OWNERS = {"writer": ("me",), "reader": ()}
"""Tokens, and whose repositories they may write to."""


@dataclass
class Repo:
    """The branches of a repository: name of each file to its content."""

    private: bool = False
    branches: dict[str, dict[str, bytes]] = field(default_factory=lambda: {"main": {".gitattributes": b"x"}})
    large: set[str] = field(default_factory=set)
    commits: list[list[str]] = field(default_factory=list)


@dataclass
class HubServer:
    """`repos` by kind and name; `objects` are the large files that came, `uploads` their sha256 in order."""

    repos: dict[tuple[str, str], Repo] = field(default_factory=dict)
    objects: dict[str, bytes] = field(default_factory=dict)
    uploads: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    before_upload: Callable[[int], None] = lambda number: None
    """Called with the number of large files so far, before the next one is taken."""

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"hub": self})
        self._parts: dict[str, dict[int, bytes]] = {}
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def files(self, kind: str, name: str, branch: str = "main") -> dict[str, bytes]:
        """What a repository holds, without what the hub itself puts there."""
        content = self.repos[kind, name].branches[branch]
        return {file: data for file, data in content.items() if file != ".gitattributes"}


class _Refusal(Exception):
    """A status with the message and code that the real hub sends along."""

    def __init__(self, status: int, message: str, code: str = "", **content: str) -> None:
        super().__init__(message)
        self.status, self.code, self.content = status, code, content


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        self._route()

    def do_POST(self) -> None:
        self._route()

    def do_PUT(self) -> None:
        self._route()

    def _route(self) -> None:
        self.hub.requests.append(f"{self.command} {self.path}")
        body = self.rfile.read(int(self.headers.get("Content-Length", 0))) if self.command != "GET" else b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self._chunks()
        address = urlsplit(self.path)
        for method, pattern, answer in _ROUTES:
            match = re.fullmatch(pattern, address.path)
            if match and method == self.command:
                try:
                    answer(
                        self, body, parse_qs(address.query), *(unquote(part or "") for part in match.groups())
                    )
                except _Refusal as refusal:
                    headers = {"X-Error-Message": str(refusal), "X-Error-Code": refusal.code}
                    self._json({"error": str(refusal), **refusal.content}, refusal.status, headers)
                return
        self._json({"error": "no such route"}, 404)

    def _chunks(self) -> bytes:
        content = b""
        while size := int(self.rfile.readline(), 16):
            content += self.rfile.read(size)
            self.rfile.readline()
        self.rfile.readline()
        return content

    def _json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def _require_writer(self, name: str) -> None:
        token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        if token not in OWNERS:
            raise _Refusal(401, "Invalid credentials in Authorization header")
        if name.split("/")[0] not in OWNERS[token]:
            raise _Refusal(403, f"You don't have the rights to write to {name}")

    def _repo(self, kind: str, name: str) -> Repo:
        self._require_writer(name)
        if (kind, name) not in self.hub.repos:
            raise _Refusal(404, "Repository not found", "RepoNotFound")
        return self.hub.repos[kind, name]

    def _branch(self, kind: str, name: str, revision: str) -> dict[str, bytes]:
        branches = self._repo(kind, name).branches
        if revision not in branches:
            raise _Refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return branches[revision]

    def create(self, body: bytes, _: dict) -> None:
        asked = json.loads(body)
        name, kind = f"{asked['organization']}/{asked['name']}", asked.get("type", "model")
        self._require_writer(name)
        url = f"{self.hub.endpoint}/{'datasets/' if kind == 'dataset' else ''}{name}"
        if (kind, name) in self.hub.repos:
            raise _Refusal(409, f"You already created this {kind} repo", url=url)
        self.hub.repos[kind, name] = Repo(private=asked.get("visibility") == "private")
        self._json({"url": url})

    def info(self, _body: bytes, _: dict, kind: str, name: str) -> None:
        repo = self._repo(kind, name)
        self._json({"id": name, "private": repo.private, "sha": "0" * 40, "siblings": [], "tags": []})

    def branch(self, _body: bytes, _: dict, kind: str, name: str, branch: str) -> None:
        branches = self._repo(kind, name).branches
        if branch in branches:
            raise _Refusal(409, "Reference already exists")
        branches[branch] = dict(branches["main"])
        self._json({})

    def validate(self, body: bytes, _: dict) -> None:
        fields = yaml.safe_load(json.loads(body)["content"].split("---")[1])
        wrong = not isinstance(fields.get("license"), str)
        errors = [{"message": '"license" must be one of a list'}] if wrong else []
        self._json({"errors": errors, "warnings": []}, 400 if wrong else 200)

    def tree(self, _body: bytes, query: dict, kind: str, name: str, revision: str) -> None:
        content, repo = sorted(self._branch(kind, name, revision).items()), self._repo(kind, name)
        start = int(query.get("cursor", ["0"])[0])
        entries = [_entry(file, data, file in repo.large) for file, data in content[start : start + PAGE]]
        headers = {}
        if start + PAGE < len(content):
            here = self.path.split("?")[0]
            headers["Link"] = f'<{self.hub.endpoint}{here}?recursive=True&cursor={start + PAGE}>; rel="next"'
        self._json(entries, 200, headers)

    def preupload(self, body: bytes, _: dict, kind: str, name: str, revision: str) -> None:
        content, repo = self._branch(kind, name, revision), self._repo(kind, name)
        files = []
        for asked in json.loads(body)["files"]:
            file = asked["path"]
            mode = "lfs" if file.endswith(LARGE_SUFFIXES) else "regular"
            oid = _oid(content[file], file in repo.large) if file in content else None
            files.append({"path": file, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self._json({"files": files})

    def batch(self, body: bytes, _: dict, prefix: str, name: str) -> None:
        self._repo("dataset" if prefix else "model", name)
        objects = [self._action(each["oid"], each["size"]) for each in json.loads(body)["objects"]]
        self._json({"transfer": "basic", "objects": objects})

    def _action(self, oid: str, size: int) -> dict:
        if oid in self.hub.objects:
            return {"oid": oid, "size": size}
        place, upload = f"{self.hub.endpoint}/lfs/{oid}", {"href": f"{self.hub.endpoint}/lfs/{oid}"}
        if size > PART_BYTES:
            count = -(-size // PART_BYTES)
            parts = {f"{number}": f"{place}/{number}" for number in range(1, count + 1)}
            upload = {"href": f"{place}/complete", "header": {"chunk_size": str(PART_BYTES), **parts}}
        return {
            "oid": oid,
            "size": size,
            "actions": {"upload": upload, "verify": {"href": f"{place}/verify"}},
        }

    def upload(self, body: bytes, _: dict, oid: str) -> None:
        self._keep(oid, body)
        self._json({})

    def upload_part(self, body: bytes, _: dict, oid: str, number: str) -> None:
        self.hub._parts.setdefault(oid, {})[int(number)] = body
        self._json({}, 200, {"ETag": hashlib.md5(body).hexdigest()})

    def complete(self, body: bytes, _: dict, oid: str) -> None:
        parts = self.hub._parts.pop(oid)
        named = [part["partNumber"] for part in json.loads(body)["parts"]]
        self._keep(oid, b"".join(parts[number] for number in named))
        self._json({})

    def verify(self, body: bytes, _: dict, oid: str) -> None:
        if len(self.hub.objects[oid]) != json.loads(body)["size"]:
            raise _Refusal(422, "wrong size")
        self._json({})

    def _keep(self, oid: str, content: bytes) -> None:
        if hashlib.sha256(content).hexdigest() != oid:
            raise _Refusal(422, "the content is not what its sha256 says")
        self.hub.before_upload(len(self.hub.uploads))
        self.hub.objects[oid] = content
        self.hub.uploads.append(oid)

    def commit(self, body: bytes, _: dict, kind: str, name: str, revision: str) -> None:
        content, repo = self._branch(kind, name, revision), self._repo(kind, name)
        touched = []
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                content[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                content[value["path"]] = self.hub.objects[value["oid"]]
                repo.large.add(value["path"])
            elif line["key"] == "deletedFile":
                del content[value["path"]]
            touched += [value["path"]] if "path" in value else []
        repo.commits.append(touched)
        self._json({"commitUrl": f"{self.hub.endpoint}/{name}/commit/1", "commitOid": "1" * 40})


def _oid(content: bytes, large: bool) -> str:
    if large:
        return hashlib.sha256(content).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _entry(file: str, content: bytes, large: bool) -> dict[str, Any]:
    entry = {"type": "file", "path": file, "size": len(content), "oid": _oid(content, False)}
    lfs = {"oid": _oid(content, True), "size": len(content), "pointerSize": 130}
    return {**entry, "lfs": lfs} if large else entry


_NAME, _REVISION, _OID = r"([^/]+/[^/]+)", r"([^/]+)", r"([0-9a-f]{64})"
_API = rf"/api/(model|dataset)s/{_NAME}"
_ROUTES: list[tuple[str, str, Callable[..., None]]] = [
    ("POST", "/api/repos/create", _Handler.create),
    ("POST", "/api/validate-yaml", _Handler.validate),
    ("GET", _API, _Handler.info),
    ("POST", rf"{_API}/branch/{_REVISION}", _Handler.branch),
    ("GET", rf"{_API}/tree/{_REVISION}", _Handler.tree),
    ("POST", rf"{_API}/preupload/{_REVISION}", _Handler.preupload),
    ("POST", rf"{_API}/commit/{_REVISION}", _Handler.commit),
    ("POST", rf"/(datasets/)?{_NAME}\.git/info/lfs/objects/batch", _Handler.batch),
    ("PUT", rf"/lfs/{_OID}", _Handler.upload),
    ("PUT", rf"/lfs/{_OID}/(\d+)", _Handler.upload_part),
    ("POST", rf"/lfs/{_OID}/complete", _Handler.complete),
    ("POST", rf"/lfs/{_OID}/verify", _Handler.verify),
]
