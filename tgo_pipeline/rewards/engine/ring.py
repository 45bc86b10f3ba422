"""Memory that worker processes share with their parent: pixels are written there once, and read where they lie.

Chunks of images take rooms of it in their order, so that the pixels of a batch lie side by side. The memory is a
`memfd`: it has no name, so that nothing is left of it however a process ends, and it is no part of /dev/shm, which
containers keep to 64 MB.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import os
import weakref
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.reduction import DupFd
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.lib.stride_tricks import as_strided
from torch import Tensor

log = logging.getLogger("tgo")
PORTABLE = 1
"""CUDA's flag for memory that all GPUs may copy from."""
PAGE_BYTES = 4096
"""The pixels of each preparation begin at a page, which is at least as good as where torch puts a tensor."""


class PixelLayout(NamedTuple):
    """What a preparation gives for every image: a tensor of this shape and type."""

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def row_bytes(self) -> int:
        """What an image takes."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


def layouts(preparations: Sequence[Any]) -> list[PixelLayout | None]:
    """The layout of each preparation; None for one that states none, whose results are sent as objects."""
    stated = (getattr(preparation, "layout", None) for preparation in preparations)
    return [None if layout is None else PixelLayout(*layout) for layout in stated]


@dataclass(eq=False)
class Room:
    """The rows that a chunk may fill, until it is `free`."""

    start: int
    stop: int
    free: bool = False

    def leave(self, *_: object) -> None:
        """Nobody needs the rows any more. Called from any thread."""
        self.free = True


class PixelRows(NamedTuple):
    """Pixels that a worker wrote: those of preparation `number`, rows `start` to `stop`."""

    number: int
    start: int
    stop: int


class SharedPixels:
    """For each preparation with a layout an array of `rows` images; a process that is started gets it by pickling."""

    def __init__(self, layouts: Sequence[PixelLayout | None], rows: int, descriptor: int) -> None:
        self.rows = rows
        self._layouts, self._descriptor = layouts, descriptor
        pages = [-(-layout.row_bytes * rows // PAGE_BYTES) if layout else 0 for layout in layouts]
        os.ftruncate(descriptor, sum(pages) * PAGE_BYTES)
        self.memory = np.frombuffer(mmap.mmap(descriptor, sum(pages) * PAGE_BYTES), np.uint8)
        starts = [sum(pages[:number]) * PAGE_BYTES for number in range(len(pages))]
        self._tensors = [
            layout and self._tensor(layout, start) for layout, start in zip(layouts, starts, strict=True)
        ]
        self._arrays = {n: tensor.numpy() for n, tensor in enumerate(self._tensors) if tensor is not None}

    def _tensor(self, layout: PixelLayout, start: int) -> Tensor:
        mine = torch.from_numpy(self.memory[start : start + layout.row_bytes * self.rows])
        return mine.view(layout.dtype).view(self.rows, *layout.shape)

    def __reduce__(self) -> tuple[Any, ...]:
        return _attached, (self._layouts, self.rows, DupFd(self._descriptor))

    def write(self, number: int, room: Room, items: Sequence[Tensor]) -> PixelRows | None:
        """Put the results of a preparation into a room; None where they are not as its layout says."""
        tensor = self._tensors[number]
        if tensor is None or any(
            item.dtype != tensor.dtype or item.shape != tensor.shape[1:] for item in items
        ):
            return None
        stop = room.start + len(items)
        torch.stack(list(items), out=tensor[room.start : stop])
        return PixelRows(number, room.start, stop)

    def read(self, written: PixelRows) -> np.ndarray:
        """What a worker wrote, where it lies."""
        return self._arrays[written.number][written.start : written.stop]

    def close(self) -> None:
        """Forget the file; the memory stays as long as somebody looks at it."""
        os.close(self._descriptor)


def _attached(layouts: Sequence[PixelLayout | None], rows: int, descriptor: Any) -> SharedPixels:
    return SharedPixels(layouts, rows, descriptor.detach())


class Ring:
    """Rooms of shared memory for images that are under way: at most `rows`, and `most_bytes`.

    `pixels` is None where there is nothing to share, or no memory to be shared.
    """

    def __init__(self, layouts: Sequence[PixelLayout | None], rows: int, most_bytes: float) -> None:
        row_bytes = sum(layout.row_bytes for layout in layouts if layout)
        rows = min(rows, int(most_bytes / row_bytes)) if row_bytes else 0
        self.pixels = _shared(layouts, rows) if row_bytes else None
        self._rooms: deque[Room] = deque()
        self._unregister: Any = lambda: None

    def take(self, count: int, following: int = 0) -> Room | None:
        """Room for `count` images behind those that were taken before; None while there is none.

        It begins where `following` images of the same batch have room behind it, if there is such a place.
        """
        while self._rooms and self._rooms[0].free:
            self._rooms.popleft()
        for needed in (count + following, count):
            start = self._start(needed)
            if start is not None:
                self._rooms.append(Room(start, start + count))
                return self._rooms[-1]
        return None

    def _start(self, count: int) -> int | None:
        """Where so many free rows begin that follow what was taken last."""
        rows = 0 if self.pixels is None else self.pixels.rows
        if not self._rooms:
            return 0 if count <= rows else None
        oldest, newest = self._rooms[0].start, self._rooms[-1].stop
        if newest <= oldest:  # the rooms go on at the beginning
            return newest if newest + count <= oldest else None
        if newest + count <= rows:
            return newest
        return 0 if count <= oldest else None

    def register(self, gpus: Sequence[torch.device]) -> None:
        """Let these GPUs copy from the memory while their networks run, without a further copy in pinned memory."""
        if self.pixels is None or not gpus:
            return
        address, size = self.pixels.memory.ctypes.data, self.pixels.memory.nbytes
        try:
            # Without this the machine's first GPU would be opened, which may be another process's.
            with torch.cuda.device(gpus[0]):
                cudart: Any = torch.cuda.cudart()
                torch.cuda.check_error(cudart.cudaHostRegister(address, size, PORTABLE))
        except (RuntimeError, AssertionError) as error:  # a virtual machine or container may not allow it
            log.info("pixels are copied once more on their way to the GPU, which is slower: %s", error)
            with contextlib.suppress(RuntimeError, AssertionError):
                torch.zeros(1, device=gpus[0])  # reports the error once more; else the next network would
        else:
            self._unregister = weakref.finalize(self, _unregister, address, gpus)
            self._unregister.atexit = False  # the driver forgets it by itself

    def close(self) -> None:
        """Let go of the memory."""
        self._unregister()
        if self.pixels is not None:
            self.pixels.close()
            self.pixels = None


def _unregister(address: int, gpus: Sequence[torch.device]) -> None:
    for gpu in gpus:
        torch.cuda.synchronize(gpu)  # a copy may be under way
    with torch.cuda.device(gpus[0]):
        cudart: Any = torch.cuda.cudart()
        cudart.cudaHostUnregister(address)


def _shared(layouts: Sequence[PixelLayout | None], rows: int) -> SharedPixels | None:
    try:
        if not rows:
            raise OSError("image_memory_gb leaves none")
        return SharedPixels(layouts, rows, os.memfd_create("tgo-pixels"))
    except (AttributeError, OSError) as error:  # another system than Linux, or too little memory
        log.info("decoded images come back through pipes, which is slower: no shared memory (%s)", error)
        return None


def joined(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Arrays as one along their first axis; without a copy where they follow each other in one memory."""
    first = parts[0]
    ends = [part.ctypes.data + part.nbytes for part in parts]
    together = first.base is not None and all(part.base is first.base for part in parts)
    if together and all(part.ctypes.data == end for part, end in zip(parts[1:], ends, strict=False)):
        return as_strided(first, (sum(map(len, parts)), *first.shape[1:]), first.strides)
    return np.concatenate(parts)
