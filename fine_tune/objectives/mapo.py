"""Margin-aware preference optimisation, without a reference (MaPO, arXiv 2406.06424; official code)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fine_tune.objectives.base import Batch, Objective
from fine_tune.objectives.ratios import log_sigmoid, losers, winners

if TYPE_CHECKING:
    from torch import Tensor


SERIES_BELOW = 1e-3
"""Where phi is computed by its series, whose fourth-order error is then below double precision."""


class Mapo(Objective):
    """m_w - a log sigma(b [phi(m_w) - phi(m_l)]), phi(m) = s m / (e^(s m) - 1), m the error -T log pi.

    Official: s = `scale` = 0.5, a = `margin_weight` = 0.1, b = `margin_beta` = 1000 (the number of timesteps). As
    phi(m) is about 1 - s m / 2, the margin has kappa = b s / 2 = 250. `beta` and `temperature` play no part.
    """

    needs_reference = False
    pairs = True

    def loss(
        self, policy_log_likelihood: Tensor, reference_log_likelihood: Tensor | None, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B / 2,) losses of rows 2i (winner) and 2i + 1 (loser); `accuracy`: 1 where the winner's error is lower."""
        options = self.params.mapo
        error = -batch.temperature * policy_log_likelihood
        odds = _phi(options.scale * error)
        margin = winners(odds) - losers(odds)
        losses = winners(error) - options.margin_weight * log_sigmoid(options.margin_beta * margin)
        correct = (1 + (losers(error) - winners(error)).detach().sign()) / 2
        return losses, {"accuracy": correct.repeat_interleave(2)}


def _phi(x: Tensor) -> Tensor:
    """x / (e^x - 1), finite with its gradient at 0 and for large x."""
    small = x.abs() < SERIES_BELOW
    series = 1 - x / 2 + x.square() / 12
    far = x.where(~small, 1.0)
    return series.where(small, far * (-far).exp() / -(-far).expm1())
