"""Which device a process uses, how many cores it has, how tensors travel, and whether memory ran out."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from tgo_pipeline.errors import TgoError

if TYPE_CHECKING:
    import numpy as np
    import torch

CGROUP = Path("/sys/fs/cgroup")
"""Where Linux says what a container or a batch job may use."""
_MEMBER = Path("/proc/self/cgroup")
_NO_MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "_status_alloc_failed")
"""What torch, the allocators, and NVIDIA's libraries say."""


def resolve_device(name: str) -> torch.device:
    """`auto` is cuda, then mps, then cpu; other names are torch's. Raises `TgoError` if it is not there.

    A GPU has its index: `cuda` is the one that torch uses at present, as `torch.cuda.set_device` takes no other.
    """
    import torch

    if name == "auto":
        has_mps = torch.backends.mps.is_available()
        name = "cuda" if torch.cuda.is_available() else "mps" if has_mps else "cpu"
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", torch.cuda.current_device())
    except (RuntimeError, AssertionError) as error:
        raise TgoError(f"device {name!r} cannot be used by torch here: {error}") from error
    return device


def cores() -> int:
    """Cores that this process may use: those it is bound to, and no more than its container or batch job is granted."""
    bound = getattr(os, "sched_getaffinity", None)  # Linux alone has it
    count = len(bound(0)) if bound else os.cpu_count() or 1
    return max(1, math.ceil(min([count, *_granted()])))


def _granted() -> Iterator[float]:
    """Cores' worth of time that each control group this process is in may take; a share of one counts whole."""
    try:
        members = [line.split(":", 2) for line in _MEMBER.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in members:
        if controllers in ("", "cpu", "cpu,cpuacct"):
            top = CGROUP / controllers
            own = top / path.lstrip("/")
            for group in (own, *own.parents[: len(own.parts) - len(top.parts)]):
                yield from _quota(group)


def _quota(group: Path) -> Iterator[float]:
    """The quota of a control group, of version 2 or 1, in cores; nothing where there is none."""
    files = [group / "cpu.max"], [group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us"]
    for each in files:
        try:
            quota, period = " ".join(file.read_text() for file in each).split()
            if quota not in ("max", "-1"):
                yield float(quota) / float(period)
        except (OSError, ValueError, ZeroDivisionError):
            continue


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on the CPU."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return any(message in str(error).lower() for message in _NO_MEMORY)


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`tensor` on a device; to a GPU through pinned memory, so that this does not wait for what it works on."""
    if device.type != "cuda" or tensor.is_cuda or not tensor.numel():
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


def in_float64(tensor: torch.Tensor) -> torch.Tensor:
    """`tensor` as float64: on its device, or on the CPU from one that has no such numbers."""
    return (tensor.cpu() if tensor.device.type == "mps" else tensor).double()


def fetch(tensors: Mapping[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """Tensors of one device as flat arrays of their types, in one copy: the device is waited for once."""
    import torch

    flat = [in_float64(tensor.detach().reshape(-1)) for tensor in tensors.values()]
    together = torch.cat(flat).cpu().split([len(each) for each in flat])
    return {
        name: part.to(tensor.dtype).numpy()
        for (name, tensor), part in zip(tensors.items(), together, strict=True)
    }


def keep_freed_memory() -> None:
    """Let this process reuse the memory of large tensors, which glibc returns to the system after every operation.

    For processes of ours that run large networks on a CPU: getting that memory again, page by page, took them about a
    tenth of their time. Does nothing where there is no glibc.
    """
    import ctypes

    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return
    trim_threshold, mmap_max = -1, -4
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, 2**31 - 1)
