"""Diffusion-DPO (arXiv 2311.12908, eq. 14; official code)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fine_tune.objectives.base import Batch, Objective
from fine_tune.objectives.ratios import log_ratio, log_sigmoid, losers, pair_metrics, winners

if TYPE_CHECKING:
    from torch import Tensor


class Dpo(Objective):
    """-log sigma(beta [(log pi - log pi_ref) of the winner - that of the loser]), at one timestep and noise for both.

    The official -log sigma(-0.5 B (Delta_w - Delta_l)) is beta / T = B / 2: B = 5000 is beta = 2.5 at T = 0.001, and
    Flow-DPO's B = 100 is beta = 0.05. Each row's slope is -+ beta sigma(-margin).
    """

    pairs = True
    pushes_away = True

    def loss(
        self, policy_log_likelihood: Tensor, reference_log_likelihood: Tensor | None, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B / 2,) losses of rows 2i (winner) and 2i + 1 (loser)."""
        ratio = log_ratio(policy_log_likelihood, reference_log_likelihood)
        return -log_sigmoid(batch.beta * (winners(ratio) - losers(ratio))), pair_metrics(ratio)
