"""Decoding and resizing images ahead of the networks, in threads or in processes, with bounded memory.

Images are prepared in chunks of `CHUNK`. As many chunks as the workers can use are under way at once; the source
is not read further than that. Processes get addresses (a path, or a place in a table) and write pixels into shared
memory (`ring.py`); only images that are given as objects or bytes, and what a preparation without a layout makes of an
image, are sent from one process to another.
"""

from __future__ import annotations

import functools
import multiprocessing
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import numpy as np
import torch

from tgo_pipeline import signals
from tgo_pipeline.devices import cores
from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.limits import IMAGES
from tgo_pipeline.rewards.engine.decode import UnreadableImage
from tgo_pipeline.rewards.engine.images import ImageInput, StoredClip, opened, opened_clip
from tgo_pipeline.rewards.engine.ring import PixelRows, Ring, Room, SharedPixels, layouts
from tgo_pipeline.rewards.networks.preprocessing import ShortestSideCrop

CHUNK = 16
"""Images that one worker prepares at a time: a quarter of a second at 512 px, so that handing over is cheap."""
MAX_WORKERS = 16
"""One core decodes some 70 images of 512 px a second (benchmarks/RESULTS.md): 16 give more than a thousand."""
RING_SHARE = 0.5
"""What may lie prepared in shared memory, as a part of the memory for images (`image_memory_gb`)."""
POLL_S = 1.0
"""How often to see whether the workers are still there."""

Tag = TypeVar("Tag")
Pixels = np.ndarray | list[Any] | PixelRows
_shared: SharedPixels | None = None
"""In a worker process: where its pixels go."""


@dataclass
class Chunk:
    """Some images, prepared: why each could not be read (None if it could), and the pixels of those that could.

    `pixels[shared[preparation]]` are those of a preparation, an array (n, 3, S, S), or a list where sizes differ. They
    are there as long as the chunk is.
    """

    errors: list[str | None]
    pixels: list[Pixels]
    shared: dict[Any, int]


def prepare_chunk(
    images: Sequence[ImageInput], preparations: Sequence[Any], room: Room | None = None
) -> Chunk:
    """Decode each image once and prepare it in every way; preparations that give the same pixels share them.

    In a worker process pixels go to their `room` in shared memory; without one they are sent.
    """
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
    for number, preparation in enumerate(preparations):
        mine = [one[preparation] for one in prepared]
        same = (
            index
            for other, index in shared.items()
            if all(one[other] is one[preparation] for one in prepared)
        )
        shared[preparation] = next(same, len(pixels))
        if shared[preparation] == len(pixels):
            pixels.append(_stack(mine, number, room))
    return Chunk(errors, pixels, shared)


def _prepare(image: ImageInput, preparations: Sequence[Any]) -> dict[Any, Any]:
    if isinstance(image, StoredClip):
        with opened_clip(image) as clip:
            return {wanted: wanted(clip) for wanted in preparations}
    done: dict[Any, Any] = {}
    with opened(image) as decoded:
        for wanted in preparations:
            like = wanted.shared(*decoded.size) if isinstance(wanted, ShortestSideCrop) else wanted
            if like not in done:
                done[like] = like(decoded)
            done[wanted] = done[like]
    return done


def _stack(items: list[Any], number: int, room: Room | None) -> Pixels:
    if not items or not isinstance(items[0], torch.Tensor):
        return items
    written = _shared.write(number, room, items) if _shared is not None and room is not None else None
    return torch.stack(items).numpy() if written is None else written


class Preparer:
    """Prepares images with `workers` processes, or with threads of this process if there are none.

    The shared memory is made for `batch` images that are used together, and for the `gpus` that copy from it.
    """

    def __init__(
        self,
        preparations: Iterable[Any],
        workers: int = 0,
        threads: int | None = None,
        *,
        batch: int = CHUNK,
        gpus: Sequence[torch.device] = (),
    ) -> None:
        self.preparations = tuple(preparations)
        self.workers = workers
        self._threads = min(MAX_WORKERS, threads or cores())
        self._ahead = 2 * (self.workers or self._threads)
        self._batch, self._gpus = batch, tuple(gpus)
        self._pool: Executor | None = None
        self._ring: Ring | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the workers; what was not asked for yet is dropped."""
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)
        self._forget()

    def _forget(self) -> None:
        if self._ring is not None:
            self._ring.close()
        self._pool = self._ring = None

    def stream(
        self,
        chunks: Iterable[tuple[Tag, Sequence[ImageInput]]],
        following: Callable[[Tag], int] = lambda _: 0,
    ) -> Iterator[tuple[Tag, Chunk]]:
        """Yield each chunk prepared, in order and with its tag, preparing the next ones meanwhile.

        `following` says how many images behind a chunk are used together with it: their pixels shall lie side by side.
        """
        waiting: deque[tuple[Tag, Future[Chunk], Room | None]] = deque()
        try:
            for tag, images in chunks:
                self._started()
                room = None if self._ring is None else self._ring.take(len(images), following(tag))
                waiting.append((tag, self._submit(images, room), room))
                if len(waiting) > self._ahead:
                    yield self._finished(*waiting.popleft())
            while waiting:
                yield self._finished(*waiting.popleft())
        except BrokenExecutor as error:
            self._forget()
            raise TgoError(
                f"a worker process that decodes images ended ({error}). It may have run out of memory: use fewer "
                "`workers`, or 0 for none. A script of your own that uses workers must start its work under "
                '`if __name__ == "__main__":`.'
            ) from error
        finally:
            for _, future, room in waiting:
                future.cancel()
                if room is not None:
                    future.add_done_callback(room.leave)  # a worker may be writing there still

    def _started(self) -> Executor:
        """The workers, which are started when they are first needed."""
        if self._pool is None:
            self._pool = self._start()
        return self._pool

    def _start(self) -> Executor:
        if not self.workers:
            return ThreadPoolExecutor(self._threads)
        # A batch is in use while the next is filled, with the chunks ahead of it, and one more on either side. Nearly a
        # batch's room is lost at the end of the memory, since the pixels of a batch lie side by side.
        rows = 3 * self._batch + (self._ahead + 3) * CHUNK
        self._ring = Ring(layouts(self.preparations), rows, RING_SHARE * IMAGES.memory_gb * 1e9)
        self._ring.register(self._gpus)
        return _processes(self.workers, self._ring.pixels)

    def _submit(self, images: Sequence[ImageInput], room: Room | None) -> Future[Chunk]:
        future = self._started().submit(prepare_chunk, images, self.preparations, room)
        if room is not None:
            future.add_done_callback(functools.partial(_leave_after_error, room))
        return future

    def _finished(self, tag: Tag, future: Future[Chunk], room: Room | None) -> tuple[Tag, Chunk]:
        while not future.done():
            wait_for([future], POLL_S)
            if isinstance(self._pool, ProcessPoolExecutor) and not future.done():
                _break_if_a_worker_ended(self._pool)
        chunk = future.result()
        if room is not None and self._ring is not None and self._ring.pixels is not None:
            weakref.finalize(chunk, room.leave).atexit = False
            read = self._ring.pixels.read
            chunk.pixels = [
                read(pixels) if isinstance(pixels, PixelRows) else pixels for pixels in chunk.pixels
            ]
        return tag, chunk


def _leave_after_error(room: Room, future: Future[Chunk]) -> None:
    if future.cancelled() or future.exception() is not None:
        room.leave()


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


def _processes(workers: int, shared: SharedPixels | None) -> ProcessPoolExecutor:
    """Processes that start without a copy of this one's memory or threads."""
    methods = multiprocessing.get_all_start_methods()
    context = signals.context("forkserver" if "forkserver" in methods else "spawn")
    if "forkserver" in methods:
        context.set_forkserver_preload([__name__])
    given = (IMAGES.megapixels, IMAGES.memory_gb / workers, shared)
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker, initargs=given)


def _start_worker(megapixels: float, memory_gb: float, shared: SharedPixels | None) -> None:
    """One thread each, its share of the memory for images, and where pixels go; no worker stays when the parent is
    killed, and signals are the parent's business."""
    global _shared
    signals.leave_to_parent()
    _shared = shared
    IMAGES.set(megapixels, memory_gb)
    torch.set_num_threads(1)
    signals.end_with_parent()
