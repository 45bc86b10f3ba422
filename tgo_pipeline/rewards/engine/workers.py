"""Decoding and resizing images ahead of the networks, in threads or in processes, with bounded memory.

Images are prepared in chunks of `CHUNK`. As many chunks as the workers can use are under way at once; the source
is not read further than that.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from multiprocessing.connection import wait
from typing import Any, Self, TypeVar

import numpy as np
import torch

from tgo_pipeline.devices import cores
from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.limits import IMAGES
from tgo_pipeline.rewards.engine.decode import UnreadableImage
from tgo_pipeline.rewards.engine.images import ImageInput, opened
from tgo_pipeline.rewards.networks.preprocessing import ShortestSideCrop

CHUNK = 16
"""Images that one worker prepares at a time."""
MAX_WORKERS = 16
POLL_S = 1.0
"""How often to see whether the workers are still there."""

Tag = TypeVar("Tag")
Pixels = np.ndarray | list[Any]


@dataclass
class Chunk:
    """Some images, prepared: why each could not be read (None if it could), and the pixels of those that could.

    `pixels[shared[preparation]]` are those of a preparation, an array (n, 3, S, S), or a list where sizes differ.
    """

    errors: list[str | None]
    pixels: list[Pixels]
    shared: dict[Any, int]


def prepare_chunk(images: Sequence[ImageInput], preparations: Sequence[Any]) -> Chunk:
    """Decode each image once and prepare it in every way; preparations that give the same pixels share them."""
    errors: list[str | None] = []
    prepared: list[dict[Any, Any]] = []
    for image in images:
        try:
            prepared.append(_prepare(image, preparations))
            errors.append(None)
        except UnreadableImage as error:
            errors.append(str(error))
    pixels: list[Pixels] = []
    shared: dict[Any, int] = {}
    for preparation in preparations:
        mine = [one[preparation] for one in prepared]
        same = (
            index
            for other, index in shared.items()
            if all(one[other] is one[preparation] for one in prepared)
        )
        shared[preparation] = next(same, len(pixels))
        if shared[preparation] == len(pixels):
            pixels.append(_stack(mine))
    return Chunk(errors, pixels, shared)


def _prepare(image: ImageInput, preparations: Sequence[Any]) -> dict[Any, Any]:
    done: dict[Any, Any] = {}
    with opened(image) as picture:
        for wanted in preparations:
            like = wanted.shared(*picture.size) if isinstance(wanted, ShortestSideCrop) else wanted
            if like not in done:
                done[like] = like(picture)
            done[wanted] = done[like]
    return done


def _stack(items: list[Any]) -> Pixels:
    if items and isinstance(items[0], torch.Tensor):
        return torch.stack(items).numpy()
    return items


class Preparer:
    """Prepares images with `workers` processes, or with threads of this process if there are none."""

    def __init__(self, preparations: Iterable[Any], workers: int = 0, threads: int | None = None) -> None:
        self.preparations = tuple(preparations)
        self.workers = workers
        self._threads = min(MAX_WORKERS, threads or cores())
        self._pool: Executor | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; what was not asked for yet is dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
            self._pool = None

    def stream(self, chunks: Iterable[tuple[Tag, Sequence[ImageInput]]]) -> Iterator[tuple[Tag, Chunk]]:
        """Yield each chunk prepared, in order and with its tag, preparing the next ones meanwhile."""
        ahead = 2 * (self.workers or self._threads)
        waiting: deque[tuple[Tag, Future[Chunk]]] = deque()
        try:
            for tag, images in chunks:
                waiting.append((tag, self._submit(prepare_chunk, images, self.preparations)))
                if len(waiting) > ahead:
                    yield self._finished(*waiting.popleft())
            while waiting:
                yield self._finished(*waiting.popleft())
        except BrokenExecutor as error:
            self._pool = None
            raise TgoError(
                f"a worker process that decodes images ended ({error}). It may have run out of memory: use fewer "
                "`workers`, or 0 for none. A script of your own that uses workers must start its work under "
                '`if __name__ == "__main__":`.'
            ) from error
        finally:
            for _, future in waiting:
                future.cancel()

    def _submit(self, work: Callable[..., Chunk], *arguments: Any) -> Future[Chunk]:
        if self._pool is None:
            self._pool = _processes(self.workers) if self.workers else ThreadPoolExecutor(self._threads)
        return self._pool.submit(work, *arguments)

    def _finished(self, tag: Tag, future: Future[Chunk]) -> tuple[Tag, Chunk]:
        while not future.done():
            wait_for([future], POLL_S)
            if isinstance(self._pool, ProcessPoolExecutor) and not future.done():
                _break_if_a_worker_ended(self._pool)
        return tag, future.result()


def _break_if_a_worker_ended(pool: ProcessPoolExecutor) -> None:
    """Let a pool notice that a worker was killed while it sent a result.

    The pool then waits for the rest of that result, for ever: it holds the sending end of the pipe open itself. With
    that end closed and every worker gone it reads the end of the pipe, and fails all that is waited for.
    """
    workers = list((pool._processes or {}).values())
    if all(worker.exitcode is None for worker in workers):
        return
    for worker in workers:
        worker.kill()
    sending: Any = getattr(pool._result_queue, "_writer", None)
    if sending is not None and not sending.closed:
        sending.close()


def _processes(workers: int) -> ProcessPoolExecutor:
    """Processes that start without a copy of this one's memory or threads."""
    methods = multiprocessing.get_all_start_methods()
    context = multiprocessing.get_context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload([__name__])
    limits = (IMAGES.megapixels, IMAGES.memory_gb / workers)
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=limits)


def _start_worker(megapixels: float, memory_gb: float) -> None:
    """One thread each, and its share of the memory for images; an interrupt is the parent's business; no worker stays
    when the parent is killed."""
    IMAGES.set(megapixels, memory_gb)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        wait([parent.sentinel])
        os._exit(1)
