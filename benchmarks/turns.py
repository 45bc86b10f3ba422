"""Two processes that take turns of a second or two, so that the noise of a shared machine falls on both alike.

A machine whose speed changes from minute to minute makes the ratio of two runs, one after the other, a matter of luck.
Here both have everything loaded and one is stopped while the other runs; a process's time is that of its own turns.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

SLICE_S = 2.0
POLL_S = 0.05
READY = "READY"
Span = tuple[float, float]


def wait_for_turn(folder: Path) -> None:
    """In the process itself: say that everything is loaded, and stop until it is this one's turn."""
    (folder / READY).touch()
    os.kill(os.getpid(), signal.SIGSTOP)


def take_turns(
    processes: Mapping[str, subprocess.Popen[bytes]], folders: Mapping[str, Path], until: str
) -> dict[str, list[Span]]:
    """Run processes in turn from when all are ready until `until` has ended; the turns of each, by `perf_counter`.

    Raises `CalledProcessError` if one ends before all are ready, or with an error.
    """
    while not all((folder / READY).exists() for folder in folders.values()):
        _check(processes)
        time.sleep(POLL_S)
    turns: dict[str, list[Span]] = {name: [] for name in processes}
    while processes[until].poll() is None:
        for name, process in processes.items():
            start = time.perf_counter()
            process.send_signal(signal.SIGCONT)
            while time.perf_counter() - start < SLICE_S and process.poll() is None:
                time.sleep(POLL_S)
            process.send_signal(signal.SIGSTOP)
            turns[name].append((start, time.perf_counter()))
        _check(processes)
    return turns


def _check(processes: Mapping[str, subprocess.Popen[bytes]]) -> None:
    for process in processes.values():
        if process.poll():
            raise subprocess.CalledProcessError(process.returncode, process.args)


def active_s(span: Span, turns: Sequence[Span]) -> float:
    """Seconds of `span` in which it was the process's turn."""
    start, end = span
    return sum(max(0.0, min(end, last) - max(start, first)) for first, last in turns)
