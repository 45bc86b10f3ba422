"""How a process of an executor sets torch up: its device, its share of the cores."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgo_pipeline.devices import cores, resolve_device
from tgo_pipeline.formats.limits import IMAGES

if TYPE_CHECKING:
    import torch

    from tgo_pipeline.params import RuntimeParams


def prepare_torch(runtime: RuntimeParams) -> torch.device:
    """Apply the thread count and this process's share of the memory for images, return the device.

    Denormal numbers are flushed: they slow tiny networks on a CPU.
    """
    import contextlib

    import torch

    IMAGES.set(runtime.max_image_megapixels, runtime.image_memory_gb / runtime.processes)

    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    torch.set_flush_denormal(True)
    if runtime.device.startswith("cuda:"):
        # or torch opens the first GPU too, which may take a single process; the last line says what is wrong
        with contextlib.suppress(RuntimeError, AssertionError, ValueError):
            torch.cuda.set_device(runtime.device)
    return resolve_device(runtime.device)


def process_runtime(runtime: RuntimeParams, rank: int) -> RuntimeParams:
    """The runtime of the rank-th of `runtime.processes`: its own GPU where there are several, its share of the cores.

    What `device` and `threads` state is kept.
    """
    import dataclasses

    import torch

    device = runtime.device
    if device in ("auto", "cuda") and torch.cuda.device_count() > 1:
        device = f"cuda:{rank % torch.cuda.device_count()}"
    return dataclasses.replace(runtime, device=device, threads=share_of_cores(runtime))


def share_of_cores(runtime: RuntimeParams) -> int:
    """Threads of one of `runtime.processes`: as stated, or its part of the cores."""
    return runtime.threads or max(1, cores() // runtime.processes)
