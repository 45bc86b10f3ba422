"""Claims on the files of a folder that processes of several machines write, which share nothing but the folder.

A claim is a small file that only one process can create (O_EXCL). It is a matter of economy and never of correctness:
two processes that write the same file write the same bytes to temporary names of their own, and rename them. So a
claim may be lost, stolen or doubled, and costs work that was done twice.

Its holder changes it all along (a heartbeat). Another process takes it over when it has not changed for a lease, by its
own monotonic clock: no clock of another machine, nor one that was set back, is asked. That of a process of this machine
that is gone is free at once.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import socket
import threading
import time
import uuid
from pathlib import Path
from types import TracebackType
from typing import Self

log = logging.getLogger("tgo")
LEASE_S = 120.0
"""Beyond the minute that network file systems may take an old state of a file for its present one."""
BEATS = 5
"""Heartbeats in a lease: four may come late or be lost."""
FOLDER = ".claims"


class Claims:
    """What this process has claimed in a folder; use it in a `with`, which lets go of all of it."""

    def __init__(self, folder: Path, lease_s: float = LEASE_S) -> None:
        self._folder, self._lease_s = folder / FOLDER, lease_s
        self._token = uuid.uuid4().hex
        self._mine: set[str] = set()
        self._seen: dict[str, tuple[str, float]] = {}
        self._beats = 0
        self._guard, self._ended = threading.Lock(), threading.Event()
        self._heart = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> Self:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._heart.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        for name in list(self._mine):
            self.release(name)

    @property
    def held(self) -> bool:
        """Whether this process holds a claim."""
        return bool(self._mine)

    def take(self, name: str) -> bool:
        """Claim a file of the folder; False if another process holds it and lives."""
        with self._guard:
            if not (self._create(name) or (self._has_expired(name) and self._take_over(name))):
                return False
            self._mine.add(name)
            return True

    def release(self, name: str) -> None:
        """Let go of a claim; nothing where another process has taken it over."""
        with self._guard:
            self._mine.discard(name)
            if self._holder(name) == self._token:
                with contextlib.suppress(OSError):
                    self._path(name).unlink()

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.claim"

    def _text(self) -> str:
        where = {"host": socket.gethostname(), "process": os.getpid()}
        return json.dumps({"token": self._token, "beat": self._beats, **where})

    def _create(self, name: str) -> bool:
        try:
            descriptor = os.open(self._path(name), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666)
        except FileExistsError:
            return False
        with os.fdopen(descriptor, "w") as stream:
            stream.write(self._text())
        return True

    def _read(self, name: str) -> str | None:
        """What a claim holds; opening it makes a network file system ask its server."""
        try:
            return self._path(name).read_text()
        except OSError:
            return None

    def _holder(self, name: str) -> str | None:
        try:
            return json.loads(self._read(name) or "").get("token")
        except ValueError:
            return None

    def _has_expired(self, name: str) -> bool:
        """Whether this process has seen the same claim for a lease, or its holder on this machine is gone."""
        content, now = self._read(name), time.monotonic()
        if content is None:  # it was let go of in the meantime
            return False
        known, since = self._seen.get(name, (None, now))
        if known != content:
            self._seen[name] = (content, now)
            return _is_gone(content)
        return now - since > self._lease_s or _is_gone(content)

    def _take_over(self, name: str) -> bool:
        """Put aside a claim that has expired, and claim the file; False if another process was faster."""
        content, _ = self._seen.pop(name)
        aside = self._path(f"{name}.{self._token}")
        try:
            self._path(name).rename(aside)
            taken = aside.read_text()
            if taken != content:  # somebody else took it over first, and this is the new one
                with contextlib.suppress(OSError):
                    os.link(aside, self._path(name))
                return False
        except OSError:
            return False
        finally:
            aside.unlink(missing_ok=True)
        log.warning("%s: who claimed it is gone, or hangs (%s): taking it over", name, content)
        return self._create(name)

    def _beat(self) -> None:
        while not self._ended.wait(self._lease_s / BEATS):
            with self._guard:
                self._beats += 1
                for name in self._mine:
                    if self._holder(name) == self._token:
                        with contextlib.suppress(OSError):
                            self._path(name).write_text(self._text())


def _is_gone(content: str) -> bool:
    """Whether a claim is of a process of this machine that has ended."""
    try:
        claim = json.loads(content)
        if claim["host"] == socket.gethostname():
            os.kill(int(claim["process"]), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, KeyError, TypeError):  # another user's, or half-written
        pass
    return False
