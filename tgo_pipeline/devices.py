"""Which device a process uses, and how many threads."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tgo_pipeline.errors import TgoError

if TYPE_CHECKING:
    import torch


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
        raise TgoError(f"device {name!r} cannot be used by torch here: {error}") from error
    return device


def to_device(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """`tensor` on a device; to a GPU through pinned memory, so that this does not wait for what it works on."""
    if device.type != "cuda" or tensor.is_cuda or not tensor.numel():
        return tensor.to(device)
    return tensor.pin_memory().to(device, non_blocking=True)


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
