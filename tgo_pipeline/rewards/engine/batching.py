"""How many images the networks see at once: measured where memory can be read, halved where it runs out."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Collection, Iterator

import torch

ON_CPU = 8
"""More make a network on a CPU no faster (docs/LOG.md, "Page faults")."""
FIRST_ON_GPU = 8
"""Images of the first batch on a GPU, which memory is measured with to choose the size of the others."""
MOST = 256
"""Two tiles, where a batch of 32 gives a ViT-H products of 8,224 rows already; not measured on a GPU."""
TILE = 128
"""Rows that a GPU's kernels for matrix products take together; a batch is a multiple of it, or of a part of it."""
SHARE = 0.6
"""Part of the free memory of a GPU that the images of one batch may take; the rest is for what the measured batch did
not need: longer prompts, workspaces of other kernels, fragments. A batch that still does not fit is halved."""


class BatchSize:
    """The number of images per batch. A GPU starts with a few, to see what each takes, and continues with what fits."""

    def __init__(self, fixed: int | None, devices: Collection[torch.device]) -> None:
        self._devices = [device for device in devices if device.type == "cuda"]
        self.known = fixed is not None or not self._devices
        """Whether the size was stated or measured: else `current` is that of the first batch."""
        self.current = fixed or (FIRST_ON_GPU if self._devices else ON_CPU)
        self.most = self.current if self.known else MOST
        """The largest that it can become."""

    def block(self, least: int) -> int:
        """A number of images that whole batches fill, of about `least`."""
        return self.current * max(1, least // self.current)

    def cut(self, count: int, most: int) -> Iterator[tuple[int, int, int]]:
        """Cut `count` images into chunks of at most `most` that fill batches: start, stop, and the end of the batch.

        While the size is not known only the first batch is cut out; chunks behind it become batches of any size.
        """
        sizes = itertools.repeat(self.current) if self.known else iter((self.current, count))
        start = 0
        while start < count:
            end = min(count, start + next(sizes))
            yield from ((first, min(end, first + most), end) for first in range(start, end, most))
            start = end

    @contextlib.contextmanager
    def measure(self, count: int) -> Iterator[None]:
        """Learn from `count` images scored inside, once."""
        if self.known:
            yield
            return
        before = {device: torch.cuda.memory_allocated(device) for device in self._devices}
        for device in self._devices:
            torch.cuda.reset_peak_memory_stats(device)
        yield
        self.current = min(self._fitting(device, before[device], count) for device in self._devices)
        self.known = True

    def shrink(self, size: int) -> None:
        """Use no more than `size` images from here on."""
        self.known = True
        self.current = min(self.current, size)
        if self._devices:
            torch.cuda.empty_cache()

    def _fitting(self, device: torch.device, before_bytes: int, count: int) -> int:
        each_bytes = max(1, (torch.cuda.max_memory_allocated(device) - before_bytes) // count)
        free_bytes, _ = torch.cuda.mem_get_info(device)
        cached_bytes = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        fitting = int(SHARE * (free_bytes + cached_bytes)) // each_bytes
        return in_tiles(max(1, min(MOST, fitting)))


def in_tiles(size: int) -> int:
    """The largest batch up to `size` whose products end with no tile nearly empty: 200 becomes 128, 100 becomes 64."""
    tile = min(TILE, 2 ** (size.bit_length() - 1))
    return size - size % tile
