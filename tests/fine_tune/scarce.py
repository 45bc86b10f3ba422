"""A device with little memory: networks that are given more rows than fit raise what a GPU raises."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch

from fine_tune.policies.diffusion import DiffusionPolicy


class _NoRoom(torch.autograd.Function):
    """Hands on what it is given, and runs out of memory on the way back."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> torch.Tensor:
        raise out_of_memory()


def out_of_memory() -> torch.OutOfMemoryError:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nGPU 0 has no more.")


@contextlib.contextmanager
def scarce_memory(most: int, *, backward: bool = False) -> Iterator[list[int]]:
    """While it lasts, at most `most` rows of Stable Diffusion fit; the sizes of all calls that were made.

    With `backward` more rows fit until their gradients are computed.
    """
    forward, calls = DiffusionPolicy.forward, []

    def scarce(self: Any, network: Any, corruption: Any) -> torch.Tensor:
        calls.append(len(corruption.latents))
        if calls[-1] <= most:
            return forward(self, network, corruption)
        if not backward:
            raise out_of_memory()
        prediction = forward(self, network, corruption)
        return _NoRoom.apply(prediction) if prediction.requires_grad else prediction  # type: ignore[return-value]

    DiffusionPolicy.forward = scarce  # type: ignore[method-assign]
    try:
        yield calls
    finally:
        DiffusionPolicy.forward = forward  # type: ignore[method-assign]
