"""Which device a process uses, and how many threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgo_pipeline.errors import TgoError

if TYPE_CHECKING:
    import torch

    from tgo_pipeline.params import RuntimeParams


def resolve_device(name: str) -> torch.device:
    """`auto` is cuda, then mps, then cpu; other names are torch's. Raises `TgoError` if it is not there."""
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise TgoError(f"runtime.device is {name!r}, which torch cannot use here: {error}") from error
    return device


def prepare_torch(runtime: RuntimeParams) -> torch.device:
    """Apply the thread count, flush denormal numbers (they slow tiny networks on a CPU), return the device."""
    import torch

    if runtime.threads:
        torch.set_num_threads(runtime.threads)
    torch.set_flush_denormal(True)
    return resolve_device(runtime.device)


def process_device(runtime: RuntimeParams, rank: int) -> RuntimeParams:
    """The runtime of the rank-th process of this machine: its own GPU where `device` leaves the choice."""
    import dataclasses

    import torch

    if runtime.device in ("auto", "cuda") and torch.cuda.device_count() > 1:
        return dataclasses.replace(runtime, device=f"cuda:{rank % torch.cuda.device_count()}")
    return runtime
