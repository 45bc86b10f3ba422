"""How many images the networks see at once: measured where memory can be read, halved where it runs out."""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator

import torch

ON_CPU = 8
"""More make a network on a CPU no faster: their tensors outgrow the caches."""
FIRST_ON_GPU = 8
"""Images of the first batch on a GPU, which memory is measured with to choose the size of the others."""
MOST = 256
SHARE = 0.6
"""Part of the free memory of a GPU that the images of one batch may take."""


class BatchSize:
    """The number of images per batch. A GPU starts with a few, to see what each takes, and continues with what fits."""

    def __init__(self, fixed: int | None, devices: Collection[torch.device]) -> None:
        self._devices = [device for device in devices if device.type == "cuda"]
        self._measured = fixed is not None or not self._devices
        self.current = fixed or (FIRST_ON_GPU if self._devices else ON_CPU)

    @contextlib.contextmanager
    def measure(self, count: int) -> Iterator[None]:
        """Learn from `count` images scored inside, once."""
        if self._measured:
            yield
            return
        before = {device: torch.cuda.memory_allocated(device) for device in self._devices}
        for device in self._devices:
            torch.cuda.reset_peak_memory_stats(device)
        yield
        self.current = min(self._fitting(device, before[device], count) for device in self._devices)
        self._measured = True

    def shrink(self, size: int) -> None:
        """Use no more than `size` images from here on."""
        self._measured = True
        self.current = min(self.current, size)
        if self._devices:
            torch.cuda.empty_cache()

    def _fitting(self, device: torch.device, before_bytes: int, count: int) -> int:
        each_bytes = max(1, (torch.cuda.max_memory_allocated(device) - before_bytes) // count)
        free_bytes, _ = torch.cuda.mem_get_info(device)
        cached_bytes = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        fitting = int(SHARE * (free_bytes + cached_bytes)) // each_bytes
        return max(1, min(MOST, fitting))
