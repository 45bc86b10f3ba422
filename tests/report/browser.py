"""A headless Chromium without network: what a page drew, what its console said, what it asked for."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-extensions",
    "--hide-scrollbars",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--enable-logging=stderr",
    "--v=0",
    "--virtual-time-budget=20000",
)
TIMEOUT_S = 120


@dataclass(frozen=True)
class Visit:
    """The document after its scripts ran, the lines of its console, the addresses that it asked the network for."""

    dom: str
    console: list[str]
    requests: list[str]


def find_browser() -> str | None:
    """The path of an installed Chromium or Chrome."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def visit(page: Path) -> Visit:
    """Open a page and wait until its scripts are done."""
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "net.json"
        done = _run(page, f"--log-net-log={log}", "--dump-dom")
        requests = _page_requests(log.read_text())
    console = [line for line in done.stderr.splitlines() if re.search(r"[:(]CONSOLE[:(]", line)]
    return Visit(done.stdout, console, requests)


def screenshot(page: Path, picture: Path, width: int, height: int, dark: bool = False) -> None:
    """Write a PNG of the top of a page in a window of this size (pixels)."""
    scheme = ["--blink-settings=preferredColorScheme=0"] if dark else []
    _run(page, *scheme, f"--window-size={width},{height}", f"--screenshot={picture}")


def _run(page: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    browser = find_browser()
    if browser is None:
        raise FileNotFoundError(f"none of {', '.join(NAMES)} is installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [browser, *FLAGS, f"--user-data-dir={profile}", *flags, page.resolve().as_uri()]
        return subprocess.run(
            command,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=TIMEOUT_S,
            check=True,
            env={**os.environ, "HOME": profile},
        )


def _page_requests(log: str) -> list[str]:
    """Addresses whose request began in a page; the browser's own services have no page as initiator."""
    try:
        events = json.loads(log)["events"]
    except json.JSONDecodeError:  # the browser may end before it closes its log
        events = json.loads(log.rstrip().rstrip(",") + "]}")["events"]
    asked = [event.get("params", {}) for event in events]
    return [p["url"] for p in asked if "url" in p and p.get("initiator") not in (None, "not an origin")]
