"""Preparing images ahead: the same from threads and processes, never further ahead than the workers can use."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path

import psutil
import pytest
import torch
from PIL import Image

from tests.rewards.tiny import png, smooth_image
from tests.rounding import SCORE, assert_same_numbers
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.engine.workers import Preparer, prepare_chunk
from tgo_pipeline.rewards.networks.preprocessing import LongestSidePad, ShortestSideCrop

PREPARATIONS = (LongestSidePad(32), ShortestSideCrop(32), ShortestSideCrop(32, "down"))
ROOT = Path(__file__).parents[3]


def chunks(count: int) -> list[tuple[int, list[bytes | None]]]:
    """Chunks of three images, the second of which is damaged."""
    return [
        (
            number,
            [png(smooth_image(40 + number, 33)), png(smooth_image(64, 64))[:200], png(smooth_image(33, 41))],
        )
        for number in range(count)
    ]


@pytest.mark.parametrize("workers", [0, 2])
def test_threads_and_processes_prepare_the_same_in_order(workers: int) -> None:
    with Preparer(PREPARATIONS, workers) as preparer:
        found = list(preparer.stream(chunks(7)))
        again = list(preparer.stream(chunks(2)))
    assert [number for number, _ in found] == list(range(7))
    for number, chunk in [*found, *again]:
        expected = prepare_chunk(chunks(7)[number][1], PREPARATIONS)
        assert chunk.errors == expected.errors
        assert [error is None for error in chunk.errors] == [True, False, True]
        assert chunk.shared == expected.shared
        for pixels, right in zip(chunk.pixels, expected.pixels, strict=True):  # 8 bits, or resized in float32
            assert_same_numbers(pixels, right, SCORE)


@pytest.mark.parametrize("workers", [0, 1])
def test_the_source_is_read_no_further_than_needed(workers: int) -> None:
    read = 0

    def source() -> Iterator[tuple[int, list[bytes]]]:
        nonlocal read
        for number in range(100):
            read += 1
            yield number, [png(smooth_image(32, 32))]

    with Preparer(PREPARATIONS, workers, threads=1) as preparer:
        for number, _ in preparer.stream(source()):
            assert read <= number + 3
    assert read == 100


def test_a_worker_that_is_killed_ends_the_work_with_a_reason() -> None:
    with Preparer(PREPARATIONS, 1) as preparer:
        stream = preparer.stream(chunks(200))
        next(stream)
        for worker in _workers(os.getpid()):
            worker.kill()
        with pytest.raises(TgoError, match="a worker process that decodes images ended"):
            list(stream)


@dataclass(frozen=True)
class KilledWhileSending:
    """A preparation whose worker is killed when it has sent the beginning of its result."""

    def __call__(self, image: Image.Image) -> torch.Tensor:
        def send_a_little(connection: Connection, data: bytes) -> None:
            os.write(connection.fileno(), bytes(data)[:20])
            os.kill(os.getpid(), signal.SIGKILL)

        Connection._send = send_a_little  # type: ignore[attr-defined]
        return torch.zeros(3, 64, 64, dtype=torch.uint8)


def test_a_worker_that_is_killed_while_it_sends_a_result_ends_the_work_too() -> None:
    with (
        Preparer([KilledWhileSending()], 2) as preparer,
        pytest.raises(TgoError, match="a worker process that decodes images ended"),
    ):
        list(preparer.stream(chunks(8)))


@pytest.mark.parametrize("served", ["by a server of its own", "by a server that was there"])
def test_signals_to_all_processes_are_left_to_this_one(served: str) -> None:
    server_of_others = served == "by a server that was there"
    forkserver._forkserver._stop()  # type: ignore[attr-defined]
    if server_of_others:
        multiprocessing.get_context("forkserver").Process(target=os.getpid).start()
    with Preparer(PREPARATIONS, 1) as preparer:
        stream = preparer.stream(chunks(9))
        next(stream)
        (server,) = {worker.parent() for worker in _workers(os.getpid())}
        for process in (*([] if server_of_others else [server]), *_workers(os.getpid())):
            for number in (signal.SIGTERM, signal.SIGINT):
                process.send_signal(number)
        assert len(list(stream)) == 8


def test_an_error_of_the_source_ends_the_workers_work() -> None:
    def source() -> Iterator[tuple[int, list[bytes]]]:
        yield from chunks(2)  # type: ignore[misc]
        raise TgoError("the source broke")

    with Preparer(PREPARATIONS, 1) as preparer, pytest.raises(TgoError, match="the source broke"):
        list(preparer.stream(source()))


def test_workers_end_when_their_parent_is_killed(tmp_path: Path) -> None:
    file = tmp_path / "parent.py"
    file.write_text(
        textwrap.dedent("""
            import time
            from tests.rewards.engine.test_workers import PREPARATIONS, chunks
            from tgo_pipeline.rewards.engine.workers import Preparer
            if __name__ == "__main__":
                preparer = Preparer(PREPARATIONS, 2)
                list(preparer.stream(chunks(8)))
                print("ready", flush=True)
                time.sleep(600)
        """)
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    parent = subprocess.Popen(
        [sys.executable, str(file)], env=environment, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    workers = _workers(parent.pid)
    assert len(workers) >= 1
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    deadline = time.monotonic() + 20
    while any(_alive(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not [worker for worker in workers if _alive(worker)]


def _workers(parent: int) -> list[psutil.Process]:
    """The processes below the fork server of a process."""
    return [process for child in psutil.Process(parent).children() for process in child.children()]


def _alive(process: psutil.Process) -> bool:
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
