"""The numbers that implicit rewards are measured from: the z of KTO and the delta of BCO, in units of the log-ratio.

beta multiplies both, r - beta z = beta (log_ratio - z), as in the official codes: Diffusion-KTO's z is a mean of
errors inside the brackets that beta multiplies, TRL's delta is a mean of beta times the log-ratio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fine_tune.objectives.base import Batch, ReferencePoint
from tgo_pipeline.devices import in_float64

if TYPE_CHECKING:
    from torch import Tensor

    from tgo_pipeline.params.objectives import ReferencePointName


class BatchMean(ReferencePoint):
    """Mean log-ratio of the step's samples, with `clamped` not below 0 (Diffusion-KTO's code, default)."""

    def __init__(self, *, clamped: bool) -> None:
        self._clamped = clamped

    def sums(self, log_ratio: Tensor, batch: Batch) -> Tensor:
        return _sum_and_count(log_ratio)

    def value(self, sums: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        mean = sums[0] / sums[1]
        return (mean.clamp(min=0.0) if self._clamped else mean), state


class MismatchedMean(BatchMean):
    """Mean log-ratio of the step's images under other prompts of the batch: an estimate of KL(pi || pi_ref).

    With `clamped` the Q_ref of Diffusion-KTO's paper (arXiv 2404.04465), else its code's `original`. Costs one
    more forward pass of policy and reference for each batch.
    """

    mismatched = True


class RunningMean(ReferencePoint):
    """Mean log-ratio of all samples of all steps so far, this one included (BCO, arXiv 2404.04656, as in TRL).

    Not a moving average: its moments are cumulative, and a checkpoint holds them.
    """

    states = 2

    def sums(self, log_ratio: Tensor, batch: Batch) -> Tensor:
        return _sum_and_count(log_ratio)

    def value(self, sums: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        total = state + sums
        return total[0] / total[1], total


def reward_shift(name: ReferencePointName) -> ReferencePoint | None:
    """The reference point that a `reward_shift` names."""
    if name == "none":
        return None
    return RunningMean() if name == "running_mean" else MismatchedMean(clamped=True)


def _sum_and_count(log_ratio: Tensor) -> Tensor:
    import torch

    numbers = in_float64(log_ratio.detach())
    total = numbers.sum()
    return torch.stack([total, torch.full_like(total, len(numbers))])
