"""What every section of the check works with: the device, whether at full size, and how much time is left."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass
class Case:
    """One check of one device; on a CPU everything is small, to see that it runs."""

    device: torch.device
    limit_s: float
    began_s: float = field(default_factory=time.monotonic)

    @property
    def full(self) -> bool:
        """Whether networks have their official sizes."""
        return self.device.type == "cuda"

    @property
    def left_s(self) -> float:
        """Time that is left."""
        return self.limit_s - (time.monotonic() - self.began_s)

    def wait(self) -> None:
        """Until the device has done what it was given."""
        if self.full:
            torch.cuda.synchronize(self.device)

    def seconds(self, work: Callable[[], Any], times: int = 3, before: int = 1) -> float:
        """Seconds of one call, after `before` to warm up."""
        for _ in range(before):
            work()
        self.wait()
        began_s = time.perf_counter()
        for _ in range(times):
            work()
        self.wait()
        return (time.perf_counter() - began_s) / times

    def forget(self) -> None:
        """Give freed memory back and measure the peak from here."""
        gc.collect()
        if self.full:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(self.device)

    @property
    def peak_gb(self) -> float:
        """The most that was allocated since `forget`."""
        return torch.cuda.max_memory_allocated(self.device) / 1e9 if self.full else 0.0


Section = Callable[[Case], dict[str, Any]]
