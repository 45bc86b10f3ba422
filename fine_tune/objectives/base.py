"""What an objective is: a pure function from log-likelihoods to one loss per sample, and what it needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

NEGATIVE, POSITIVE = 0, 1


@dataclass(frozen=True)
class Batch:
    """What an objective may know of a batch besides its log-likelihoods."""

    label: Tensor
    """(B,) 1 for a positive sample, 0 for a negative one."""
    weight: Tensor
    """(B,) confidence weights w = 1 + c|s - tau|."""
    beta: float = 1.0
    """Strength of the tie to the reference."""
    temperature: float = 1.0
    """T in log pi = -error / T, which the policy has already applied; -T log pi is the error again."""


class Loss(Protocol):
    """One loss per sample; the trainer takes the mean over the batch."""

    def __call__(
        self, policy_log_likelihood: Tensor, reference_log_likelihood: Tensor | None, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Map (B,) log-likelihoods to ((B,) losses, metrics of (B,) each); a metric carries no gradient."""
        ...


@dataclass(frozen=True)
class Objective:
    """A loss and what it declares to need."""

    loss: Loss
    needs_reference: bool
    sides: frozenset[int] = frozenset((NEGATIVE, POSITIVE))
    """Labels of the samples that it trains on; the others never enter a batch."""
