"""Supervised fine-tuning on the positive side: the plain training loss of the model family."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fine_tune.objectives.base import POSITIVE, Batch, Objective

if TYPE_CHECKING:
    from torch import Tensor


def loss(
    policy_log_likelihood: Tensor, reference_log_likelihood: Tensor | None, batch: Batch
) -> tuple[Tensor, dict[str, Tensor]]:
    """l times the model's own error -T log pi, for each of (B,) samples; weights and reference are not used.

    The objective asks for positive samples alone, so the trainer's mean over the batch is the mean over positives:
    the denominator never depends on how many negatives a batch would have held, and no forward pass is spent on
    a sample that teaches nothing. At equal steps and batch size it sees as many samples as `tgo` does.
    """
    return batch.label * (-batch.temperature * policy_log_likelihood), {}


OBJECTIVE = Objective(loss, needs_reference=False, sides=frozenset((POSITIVE,)))
