"""A gradient as a few thousand numbers that keep its inner products: a count-sketch (arXiv 0902.2206).

torch.dot(Sketch(device)(a), Sketch(device)(b))   # the inner product of the gradients a and b, but for 1 %
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor
from torch.distributed.tensor import DTensor
from torch.nn import functional

from tgo_pipeline.devices import to_device

WIDTH = 15727
"""Numbers of a sketch. Errors of inner products are about 1/sqrt(WIDTH), .8 %, of the product of the norms.

Gradients in a column of a weight are alike in size. This is the best of 150 primes at spreading columns over the
buckets, for all usual widths of weights: as evenly as chance. 16381, near a power of 2, makes five times more meet."""
SIGNS = 1048573
"""Random signs, used over and over. A prime, too: up to 17 billion parameters no two of one bucket share a sign."""
PART = SIGNS // WIDTH * WIDTH


class Sketch:
    """A linear map: coordinate i, times a random sign, is added to bucket i % WIDTH.

    Its inner products are those of the gradients on average over the signs, which are the same on every device.
    """

    def __init__(self, device: torch.device) -> None:
        bits = torch.randint(2, (SIGNS,), generator=torch.Generator().manual_seed(0))
        signs = (2 * bits - 1).float()
        self._signs = to_device(torch.cat([signs, signs]), device)

    def __call__(self, gradients: Iterable[Tensor]) -> Tensor:
        """(WIDTH,) float64 on the CPU. All processes have to call it for gradients in shards."""
        total, first = torch.zeros(WIDTH, dtype=torch.float64), 0
        for gradient in gradients:
            whole = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
            for part in whole.detach().flatten().split(PART):
                total += self._of(part.float(), first).cpu().double()
                first += part.numel()
        return total

    def _of(self, values: Tensor, first: int) -> Tensor:
        """The sketch of coordinates from `first` on."""
        place, before = first % SIGNS, first % WIDTH
        signed = values * self._signs[place : place + values.numel()]
        padded = functional.pad(signed, (before, -(before + values.numel()) % WIDTH))
        return padded.view(-1, WIDTH).sum(0)
