"""A small server that speaks chat completions, on this machine."""

from __future__ import annotations

import base64
import contextlib
import io
import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from PIL import Image

Answer = Callable[[dict[str, Any], Image.Image], "tuple[int, Any]"]


@dataclass
class Server:
    """What it was asked, and how many questions it had at a time."""

    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    most: int = 0
    now: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)


def text(content: str, **more: Any) -> tuple[int, dict[str, Any]]:
    """A completion that says this."""
    usage = {"prompt_tokens": 100, "completion_tokens": 3}
    return 200, {"choices": [{"message": {"role": "assistant", "content": content}, **more}], "usage": usage}


def brightness(body: dict[str, Any], image: Image.Image) -> tuple[int, dict[str, Any]]:
    """Rates an image by its mean, from 0 to 10."""
    return text(f"I give it {sum(image.resize((1, 1)).getpixel((0, 0))) / 76.5:.3f}")


@contextlib.contextmanager
def serving(answer: Answer, pause_s: float = 0.0) -> Iterator[Server]:
    """Serve until the end of the block."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            with server.lock:
                server.now += 1
                server.most = max(server.most, server.now)
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            server.requests.append(body)
            server.keys.append(self.headers.get("Authorization"))
            image = body["messages"][-1]["content"][0]["image_url"]["url"].removeprefix(
                "data:image/png;base64,"
            )
            status, reply = answer(body, Image.open(io.BytesIO(base64.b64decode(image))))
            time.sleep(pause_s)
            with server.lock:
                server.now -= 1
            data = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
            self.send_response(status if self.path == "/v1/chat/completions" else 404)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_: object) -> None: ...

    running = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{running.server_port}/v1"
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        running.shutdown()
        running.server_close()
        thread.join()
