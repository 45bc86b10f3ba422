"""A real server that speaks S3 (moto's) on the loopback interface, and what stands before it and does harm."""

from __future__ import annotations

import contextlib
import http.client
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pyarrow.fs as fs

BUCKET = "bucket"
CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "tester",
    "AWS_SECRET_ACCESS_KEY": "not-to-be-shown",
    "AWS_EC2_METADATA_DISABLED": "true",
    "AWS_REGION": "us-east-1",
}


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


@contextlib.contextmanager
def s3_server() -> Iterator[str]:
    """The address of a server with one empty bucket."""
    port = _free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                break
            time.sleep(0.1)
        address = f"http://127.0.0.1:{port}"
        directly(address).create_dir(BUCKET)
        yield address
    finally:
        server.kill()
        server.wait()


def directly(address: str) -> fs.S3FileSystem:
    """The server itself, past whatever stands before it."""
    return fs.S3FileSystem(
        access_key="tester",
        secret_key="not-to-be-shown",
        region="us-east-1",
        endpoint_override=address,
        allow_bucket_creation=True,
    )


def objects(address: str) -> list[str]:
    """The keys of the bucket."""
    found = directly(address).get_file_info(fs.FileSelector(BUCKET, recursive=True))
    return sorted(each.path for each in found if each.type == fs.FileType.File)


@dataclass
class Harm:
    """What happens to the next requests of a method ("GET", "PUT", "POST"; "*": any)."""

    method: str = "*"
    failures: int = 0
    """So many are answered with `status` and nothing else."""
    status: int = 500
    cuts: int = 0
    """So many answers break off in the middle."""
    pause_s: float = 0.0
    """Before each answer."""
    seen: list[str] = field(default_factory=list)
    """Method and path of every request."""
    guard: Any = field(default_factory=threading.Lock)

    def take(self, name: str, method: str) -> bool:
        """Whether one of a kind of harm is left for a request."""
        with self.guard:
            left = getattr(self, name)
            if not left or self.method not in ("*", method):
                return False
            setattr(self, name, left - 1)
            return True


@contextlib.contextmanager
def harmful(address: str, harm: Harm) -> Iterator[str]:
    """A proxy before a server that does harm; its address."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _pass_on(self) -> None:
            method = self.command
            harm.seen.append(f"{method} {self.path}")
            sent = self._sent()
            time.sleep(harm.pause_s)
            if harm.take("failures", method):
                self._answer(harm.status, {}, b"", 0)
                return
            port = int(address.rpartition(":")[2])
            there = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            there.request(
                method, self.path, sent, {**dict(self.headers.items()), "Content-Length": str(len(sent))}
            )
            answer = there.getresponse()
            body = answer.read()
            headers = dict(answer.getheaders())
            length = int(headers.get("Content-Length", len(body))) if method == "HEAD" else len(body)
            if method != "HEAD" and len(body) > 1 and harm.take("cuts", method):
                self._answer(answer.status, headers, body[: len(body) // 2], length)
                self.wfile.flush()
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)
                return
            self._answer(answer.status, headers, body, length)

        def _sent(self) -> bytes:
            if self.headers.get("Transfer-Encoding") != "chunked":
                return self.rfile.read(int(self.headers.get("Content-Length") or 0))
            found = b""
            while count := int(self.rfile.readline().split(b";")[0], 16):
                found += self.rfile.read(count)
                self.rfile.readline()
            while self.rfile.readline().strip():
                pass
            del self.headers["Transfer-Encoding"]
            return found

        def _answer(self, status: int, headers: dict[str, str], body: bytes, length: int) -> None:
            self.send_response_only(status)
            for name, value in headers.items():
                if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                    self.send_header(name, value)
            self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _pass_on

        def log_message(self, *_: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as proxy:
        proxy.daemon_threads = True
        proxy.handle_error = lambda *_: None  # clients that are killed break off
        thread = threading.Thread(target=proxy.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{proxy.server_address[1]}"
        finally:
            proxy.shutdown()
