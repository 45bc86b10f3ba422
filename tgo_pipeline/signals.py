"""Signals that ask a command to end, and the processes that it starts.

Ctrl-C, `scancel` and systemd send a signal to every process of a command. The command alone decides what it means: the
processes that it starts with `context` never hear of it, not even while they import.

    processes = signals.context("spawn")
    worker = processes.Process(target=work)
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator
from multiprocessing.connection import wait
from multiprocessing.context import (
    ForkServerContext,
    ForkServerProcess,
    SpawnContext,
    SpawnProcess,
)
from typing import Any, Literal

ENDING = (signal.SIGINT, signal.SIGTERM)
"""What asks a command to end."""


@contextlib.contextmanager
def blocked() -> Iterator[None]:
    """Hold signals back from this thread, and for good from processes that it starts meanwhile."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ENDING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Child:
    """A process that never hears of the signals; what would end it with one has to kill it."""

    def start(self) -> None:
        with blocked():  # a fork server too, if this starts it
            super().start()  # type: ignore[misc]

    def terminate(self) -> None:
        self.kill()  # type: ignore[attr-defined]


class _Spawned(_Child, SpawnProcess):
    pass


class _Forked(_Child, ForkServerProcess):
    pass


class _Spawn(SpawnContext):
    Process: Any = _Spawned


class _ForkServer(ForkServerContext):
    Process: Any = _Forked


def context(method: Literal["spawn", "forkserver"]) -> _Spawn | _ForkServer:
    """The context of `multiprocessing` whose processes leave signals to this one."""
    return _Spawn() if method == "spawn" else _ForkServer()


def leave_to_parent() -> None:
    """Ignore the signals in this process: the server that it was forked from may be another's, and hear of them."""
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def end_with_parent() -> None:
    """End this process, which another one started, at once when that one is gone."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
