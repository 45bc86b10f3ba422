"""The page of `tgo rate`: a server for this machine alone.

It listens on the loopback interface, and everything lies below a path that holds a random token. A request whose `Host`
is not a name of this machine is refused: another site whose name is made to point here (DNS rebinding) sends its own.
Requests that change something are JSON, which a form of another page cannot send, and of this page's origin.
"""

from __future__ import annotations

import hmac
import json
import logging
import secrets
from collections.abc import Callable, Mapping
from functools import cache
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats import json_text
from tgo_pipeline.rating import gallery
from tgo_pipeline.rating.session import RatingSession

log = logging.getLogger("tgo")
LOOPBACK = "127.0.0.1"
NAMES = (LOOPBACK, "localhost", "[::1]")
"""What a browser on this machine may call it; the port may be that of a tunnel."""
TOKEN_BYTES = 16  # 128 bits, which nobody guesses
MOST_BYTES = 1 << 16
"""Of the body of a request: an answer has about 200."""
MOST_DIGITS = 10  # of a place in a list of images; longer numbers would only cost time
IDLE_S = 60
"""After which a connection that says nothing is closed."""
FILES = {"": "text/html", "rate.css": "text/css", "rate.js": "text/javascript"}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self'; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}


class RatingServer(ThreadingHTTPServer):
    """Serves one session until it is shut down; `address` is what the browser opens."""

    daemon_threads = True

    def __init__(self, session: RatingSession, port: int) -> None:
        self.session = session
        self.token = secrets.token_urlsafe(TOKEN_BYTES)
        try:
            super().__init__((LOOPBACK, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = getattr(error, "strerror", None) or error
            raise TgoError(
                f"port {port} of {LOOPBACK} cannot be listened on ({reason}): give another one (--port), or none."
            ) from error

    @property
    def address(self) -> str:
        """The address of the page, with the token that opens it."""
        return f"http://{LOOPBACK}:{self.server_address[1]}/{self.token}/"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A browser that closes a connection is no error; anything else is in the log, not on the terminal."""
        log.debug("a request ended early", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    server: RatingServer  # type: ignore[assignment]
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "tgo", ""
    timeout = IDLE_S

    def do_GET(self) -> None:
        """The page, its files and the images."""
        if (path := self._own_path()) is None:
            return
        folder, _, place = path.rpartition("/")
        if path in FILES:
            self._send(HTTPStatus.OK, _file(path), f"{FILES[path]}; charset=utf-8")
        elif (
            folder in ("image", "clip")
            and (number := _number(place)) is not None
            and number < self.server.session.size
        ):
            self._image(number)
        else:
            self._refuse(HTTPStatus.NOT_FOUND, "there is nothing of this name")

    def do_POST(self) -> None:
        """A question, an answer, undo, or the summary: JSON in, JSON out."""
        body = self._body()
        if (path := self._own_path()) is None:
            return
        if path not in _CALLS:
            self._refuse(HTTPStatus.NOT_FOUND, "there is nothing of this name")
        elif self.headers.get_content_type() != "application/json" or not self._is_of_this_page():
            self._refuse(HTTPStatus.FORBIDDEN, "this page alone may ask")
        elif body is None:
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too long, or of unknown length")
        else:
            self._call(_CALLS[path], body)

    def _call(self, call: Callable[[RatingSession, dict[str, Any]], Any], body: bytes) -> None:
        try:
            asked = json_text.loads(body, "the request")
            if not isinstance(asked, dict):
                raise TgoError("the request is no JSON object.")
            found = call(self.server.session, asked)
        except (TgoError, UnicodeDecodeError) as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
            return
        self._send(HTTPStatus.OK, json.dumps(found).encode(), "application/json")

    def _image(self, place: int) -> None:
        try:
            data, kind = gallery.shown(self.server.session.images[place])
        except TgoError as error:
            self._refuse(HTTPStatus.NOT_FOUND, str(error))
            return
        if (part := _part(self.headers.get("Range", ""), len(data))) is None:
            self._send(HTTPStatus.OK, data, kind)
            return
        bounds = {"Content-Range": f"bytes {part.start}-{part.stop - 1}/{len(data)}"}
        self._send(HTTPStatus.PARTIAL_CONTENT, data[part.start : part.stop], kind, bounds)

    def _own_path(self) -> str | None:
        """What is asked for, below the token; None for a request that was refused."""
        host = self.headers.get("Host", "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdecimal() else host
        token, _, path = self.path.removeprefix("/").partition("?")[0].partition("/")
        if name.lower() not in NAMES:
            self._refuse(HTTPStatus.FORBIDDEN, "this page is for this machine alone")
        elif not hmac.compare_digest(token.encode(), self.server.token.encode()):
            self._refuse(HTTPStatus.FORBIDDEN, "the address is not the one that `tgo rate` printed")
        else:
            return path
        return None

    def _is_of_this_page(self) -> bool:
        origin = self.headers.get("Origin")
        return origin is None or urlsplit(origin).netloc == self.headers.get("Host")

    def _body(self) -> bytes | None:
        """The body of a request; None if it is too long, after which the connection ends."""
        length = _number(self.headers.get("Content-Length", ""))
        if length is None or length > MOST_BYTES:
            self.close_connection = True
            return None
        return self.rfile.read(length)

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        self._send(status, json.dumps({"error": reason}).encode(), "application/json")

    def _send(
        self, status: HTTPStatus, data: bytes, kind: str, more: Mapping[str, str] | None = None
    ) -> None:
        self.send_response(status)
        own = {"Content-Type": kind, "Content-Length": str(len(data)), "Accept-Ranges": "bytes"}
        for name, value in {**HEADERS, **own, **(more or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        log.debug(format, *args)


_CALLS: dict[str, Callable[[RatingSession, dict[str, Any]], Any]] = {
    "raters": lambda session, _: {"raters": session.raters(), "ask": session.ask},
    "next": lambda session, asked: session.next(asked.get("rater")),
    "answer": lambda session, asked: session.answer(
        asked.get("rater"), asked.get("question"), asked.get("value"), asked.get("id"), asked.get("seconds")
    ),
    "undo": lambda session, asked: session.undo(asked.get("rater")),
    "summary": lambda session, _: session.summary(),
}


def _number(text: str) -> int | None:
    """A whole number from outside; None for anything else, or a long one."""
    return int(text) if text.isdecimal() and text.isascii() and len(text) < MOST_DIGITS else None


def _part(asked: str, size: int) -> range | None:
    """The bytes that a browser asks for of a clip, `bytes=0-` or `bytes=0-99`; None for all, or what is no part."""
    unit, _, bounds = asked.partition("=")
    first, dash, last = bounds.partition("-")
    start = _number(first)
    if unit != "bytes" or not dash or start is None or start >= size:
        return None
    end = _number(last)
    return range(start, size if end is None else max(start, min(end, size - 1)) + 1)


@cache
def _file(name: str) -> bytes:
    return (resources.files("tgo_pipeline.rating") / "page" / (name or "rate.html")).read_bytes()
