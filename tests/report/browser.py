"""A headless Chromium without network, driven over the DevTools protocol through a pipe.

One process serves many pages: `with Browser() as browser: page = browser.open(file, width=360)`.
"""

from __future__ import annotations

import base64
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-dev-shm-usage",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--force-color-profile=srgb",
    "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",  # a page that this machine serves
    "--remote-debugging-pipe",
)
TIMEOUT_S = 180.0
_AS_3_AND_4 = (  # the descriptors on which Chromium speaks; the two given ones may be 3 or 4 themselves
    "import fcntl, os, sys\n"
    "r, w = (fcntl.fcntl(int(d), fcntl.F_DUPFD, 10) for d in sys.argv[1:3])\n"
    "os.dup2(r, 3); os.dup2(w, 4); os.close(r); os.close(w)\n"
    "os.execv(sys.argv[3], sys.argv[3:])\n"
)
_KEYS = {  # key: (code, key code, text)
    "ArrowLeft": ("ArrowLeft", 37, ""),
    "ArrowUp": ("ArrowUp", 38, ""),
    "ArrowRight": ("ArrowRight", 39, ""),
    "ArrowDown": ("ArrowDown", 40, ""),
    "End": ("End", 35, ""),
    "Home": ("Home", 36, ""),
    "Enter": ("Enter", 13, "\r"),
    "Escape": ("Escape", 27, ""),
    "Tab": ("Tab", 9, ""),
    "/": ("Slash", 191, "/"),
    "?": ("Slash", 191, "?"),
}


def find_browser() -> str | None:
    """The path of an installed Chromium or Chrome."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


class Browser:
    """A running browser with a profile of its own; a context manager that ends it."""

    def __init__(self) -> None:
        program = find_browser()
        if program is None:
            raise FileNotFoundError(f"none of {', '.join(NAMES)} is installed")
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        theirs_in, ours_out = os.pipe()
        ours_in, theirs_out = os.pipe()
        flags = [*FLAGS, f"--user-data-dir={self._profile.name}"]
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", _AS_3_AND_4, str(theirs_in), str(theirs_out), program, *flags],
            pass_fds=(theirs_in, theirs_out),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "HOME": self._profile.name},
        )
        os.close(theirs_in)
        os.close(theirs_out)
        self._out, self._in = os.fdopen(ours_out, "wb"), os.fdopen(ours_in, "rb")
        self._messages: queue.Queue[dict[str, Any]] = queue.Queue()
        self._pages: dict[str, Page] = {}
        self._calls = 0
        threading.Thread(target=self._listen, daemon=True).start()

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.terminate()
        self._process.wait(TIMEOUT_S)
        self._out.close()
        self._profile.cleanup()

    def _listen(self) -> None:
        buffer = b""
        with self._in as stream:
            while part := os.read(stream.fileno(), 1 << 16):
                *whole, buffer = (buffer + part).split(b"\0")
                for message in whole:
                    self._messages.put(json.loads(message))

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """The result of a command; events that come in between reach their pages. Raises `RuntimeError`."""
        self._calls += 1
        number = self._calls
        message = {"id": number, "method": method, "params": params}
        self._out.write(json.dumps(message | ({"sessionId": session} if session else {})).encode() + b"\0")
        self._out.flush()
        while True:
            answer = self._receive(TIMEOUT_S)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return answer["result"]

    def wait(self, seconds: float) -> None:
        """Let events come in for this long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            try:
                self._receive(left)
            except TimeoutError:
                return

    def _receive(self, timeout: float) -> dict[str, Any]:
        try:
            message = self._messages.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"the browser said nothing for {timeout:.0f} s") from None
        if "method" in message and message.get("sessionId") in self._pages:
            self._pages[message["sessionId"]].take(message["method"], message["params"])
        return message

    @contextmanager
    def open(
        self,
        file: Path | str,
        *,
        width: int = 1280,
        height: int = 900,
        scheme: str = "light",
        media: str = "",
    ) -> Iterator[Page]:
        """A file, once its charts are drawn, or an address, in a tab of its own; closed afterwards."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        page = self._pages[session] = Page(self, session)
        for domain in ("Page", "Runtime", "Log", "Network"):
            page.call(f"{domain}.enable")
        page.resize(width, height)
        page.emulate(scheme, media)
        page.go(file)
        try:
            yield page
        finally:
            del self._pages[session]
            self.call("Target.closeTarget", targetId=target)


class Page:
    """An open page: what its console said, what it asked the network for, and hands to use it."""

    def __init__(self, browser: Browser, session: str) -> None:
        self.console: list[str] = []
        self._browser, self._session = browser, session
        self._requests: dict[str, str] = {}
        self._address = ""

    @property
    def requests(self) -> list[str]:
        """Addresses outside the page that the browser began to fetch; those that the policy stopped do not count."""
        own = ("data:", "blob:", self._address)
        return [address for address in self._requests.values() if not address.startswith(own)]

    def call(self, method: str, **params: Any) -> dict[str, Any]:
        return self._browser.call(method, self._session, **params)

    def take(self, method: str, event: dict[str, Any]) -> None:
        """Keep what an event says."""
        if method == "Runtime.consoleAPICalled":
            self.console.append(" ".join(str(part.get("value", part)) for part in event["args"]))
        elif method == "Runtime.exceptionThrown":
            self.console.append(json.dumps(event["exceptionDetails"]))
        elif method == "Log.entryAdded":
            self.console.append(event["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self._requests[event["requestId"]] = event["request"]["url"]
        elif method == "Network.loadingFailed" and event.get("blockedReason") == "csp":
            self._requests.pop(event["requestId"], None)

    def go(self, file: Path | str) -> None:
        """Load a file and wait until its scripts are done, or load an address."""
        served = isinstance(file, str)
        self._address = file if served else file.resolve().as_uri()
        self.call("Page.navigate", url=self._address)
        done = f"location.href === {json.dumps(self._address)}"
        charts = "!!document.documentElement.dataset.charts"
        self.until(f"document.readyState === 'complete' && {done if served else charts}")

    def resize(self, width: int, height: int, scale: float = 1) -> None:
        """The size of the window in CSS pixels."""
        metrics = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": width < 600}
        self.call("Emulation.setDeviceMetricsOverride", **metrics)

    def emulate(self, scheme: str, media: str = "") -> None:
        """A colour scheme that the reader prefers, and `print` as the medium."""
        wished = [{"name": "prefers-color-scheme", "value": scheme}]
        self.call("Emulation.setEmulatedMedia", media=media, features=wished)

    def run(self, expression: str) -> Any:
        """The value of a JavaScript expression, awaited. Raises `RuntimeError` for what it throws."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise RuntimeError(f"{expression}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def until(self, expression: str, timeout_s: float = TIMEOUT_S) -> None:
        """Wait until an expression holds. Raises `TimeoutError`."""
        end = time.monotonic() + timeout_s
        while not self.run(expression):
            if time.monotonic() > end:
                raise TimeoutError(f"it never came true: {expression}")
            self._browser.wait(0.02)

    def text(self, selector: str) -> str:
        """The text of the first element that a selector finds."""
        return self.run(f"document.querySelector({json.dumps(selector)}).innerText")

    def texts(self, selector: str) -> list[str]:
        """The text of every element that a selector finds."""
        return self.run(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.innerText)")

    def choose(self, selector: str, value: str) -> None:
        """Choose an option of a `<select>` as a reader does: the value changes and the page hears of it."""
        self.run(
            f"(e => {{ e.value = {json.dumps(value)}; e.dispatchEvent(new Event('input', {{bubbles: true}})); "
            f"if (e.value !== {json.dumps(value)}) throw new Error('no such option'); }})"
            f"(document.querySelector({json.dumps(selector)}))"
        )

    def key(self, *keys: str) -> None:
        """Press and release keys, one after the other."""
        for key in keys:
            code, number, text = _KEYS.get(key, (f"Key{key.upper()}", ord(key[0].upper()), key))
            stroke = {"key": key, "code": code, "windowsVirtualKeyCode": number}
            self.call("Input.dispatchKeyEvent", type="keyDown", **stroke, **({"text": text} if text else {}))
            self.call("Input.dispatchKeyEvent", type="keyUp", **stroke)

    def type(self, text: str) -> None:
        """Enter text where the focus is."""
        self.call("Input.insertText", text=text)

    def place(self, selector: str, share: float = 0.5) -> tuple[float, float]:
        """A point in the window: the middle line of an element, at a share of its width; scrolls it into view."""
        x, y = self.run(
            f"(e => {{ e.scrollIntoView({{block: 'center', behavior: 'instant'}}); "
            f"const b = e.getBoundingClientRect(); return [b.left + {share} * b.width, b.top + b.height / 2]; }})"
            f"(document.querySelector({json.dumps(selector)}))"
        )
        return x, y

    def click(self, selector: str, share: float = 0.5) -> None:
        """Press and release the mouse on an element."""
        self.drag(selector, share, share)

    def drag(self, selector: str, start: float, end: float) -> None:
        """Press the mouse at one share of an element's width and release it at another."""
        for kind, share in (("mousePressed", start), ("mouseMoved", end), ("mouseReleased", end)):
            x, y = self.place(selector, share)
            button = {"button": "left", "buttons": 1, "clickCount": 1}
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, **button)

    def swipe(self, selector: str, start: float, end: float) -> None:
        """Move a finger over an element from one share of its width to another."""
        for kind, share in (("touchStart", start), ("touchMove", end), ("touchEnd", end)):
            x, y = self.place(selector, share)
            points = [] if kind == "touchEnd" else [{"x": x, "y": y}]
            self.call("Input.dispatchTouchEvent", type=kind, touchPoints=points)

    def screenshot(self, to: Path, selector: str = "", height: int = 0) -> None:
        """Write a PNG of the window, or of one element, of `height` CSS pixels at most."""
        clip = {}
        if selector:
            box = self.run(
                f"(b => ({{x: b.left + scrollX, y: b.top + scrollY, width: b.width, height: b.height, scale: 1}}))"
                f"(document.querySelector({json.dumps(selector)}).getBoundingClientRect())"
            )
            clip = {"clip": box | ({"height": min(height, box["height"])} if height else {})}
        taken = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=bool(clip), **clip)
        to.write_bytes(base64.b64decode(taken["data"]))

    def pdf(self) -> bytes:
        """The page as it is printed."""
        return base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"])
