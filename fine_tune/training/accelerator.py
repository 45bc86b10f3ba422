"""The device of a training and its precision: autocast, and for fp16 the scaler that keeps gradients from vanishing."""

from __future__ import annotations

import contextlib

import torch
from torch import Tensor
from torch.amp.grad_scaler import GradScaler

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params.checks import Precision

_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}


class Accelerator:
    """What torch.amp does for one training.

    On a GPU cuDNN takes kernels that repeat their sums, for as long as the process lives: a training that goes on from
    a checkpoint comes nearer to one that was never broken off. TF32 is left as torch has it: convolutions of float32
    tensors compute in it, matrix products do not.
    """

    def __init__(self, precision: Precision, device: torch.device) -> None:
        """Raises `TgoError` where the device lacks the precision."""
        if precision == "fp16" and device.type != "cuda":
            raise TgoError("fine_tune.precision is fp16, which needs a GPU: use bf16 or fp32 on a CPU.")
        if precision == "bf16" and device.type == "cuda" and not torch.cuda.is_bf16_supported():
            raise TgoError(
                "fine_tune.precision is bf16, which this GPU does not compute in: use fp16 or fp32."
            )
        if device.type == "cuda":
            torch.cuda.set_device(device)
            torch.backends.cudnn.deterministic = True
        self.device = device
        self.scaler = GradScaler(device.type) if precision == "fp16" else None
        self._half = _HALF.get(precision)

    def autocast(self) -> contextlib.AbstractContextManager[object]:
        """While it lasts, matrix products and convolutions are computed in half precision, if that is asked for."""
        if self._half is None:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self._half)

    def backward(self, loss: Tensor) -> None:
        """Add the gradient of the loss, scaled with fp16."""
        (loss if self.scaler is None else self.scaler.scale(loss)).backward()

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Turn scaled gradients into true ones, before they are clipped."""
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """One update; with fp16 none where a gradient overflowed, and a lower scale from then on."""
        if self.scaler is None:
            optimizer.step()
            return
        self.scaler.step(optimizer)
        self.scaler.update()
