"""Binary classifier optimisation: a logistic loss on the shifted implicit reward (arXiv 2404.04656; TRL's code)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fine_tune.objectives.base import Batch, Objective, ReferencePoint, preference_metrics
from fine_tune.objectives.ratios import log_ratio, log_sigmoid
from fine_tune.objectives.reference_points import reward_shift

if TYPE_CHECKING:
    from torch import Tensor


class Bco(Objective):
    """-log sigma(s (r - delta)), r = beta (log pi - log pi_ref), s = 1 for positive samples and -1 for negative ones.

    delta is by default the mean of r over all samples seen so far (`running_mean`: cumulative, held by checkpoints);
    `kl_clamped` is KTO's z, `none` is 0: then the loss is TGO's without weights. delta lives in units of the implicit
    reward and has nothing to do with tau, which lives in units of the score. The paper's density-ratio weight of
    rejected samples needs a classifier of prompts and is left out: here both sides come from the same prompts.
    TRL's beta = 0.1 is for sums of token log-probabilities; for images beta / T = kappa as in TGO.
    """

    pushes_away = True

    @property
    def reference_point(self) -> ReferencePoint | None:
        return reward_shift(self.params.bco.reward_shift)

    def loss(
        self, policy_log_likelihood: Tensor, reference_log_likelihood: Tensor | None, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B,) losses; the weights of the samples play no part."""
        ratio = log_ratio(policy_log_likelihood, reference_log_likelihood)
        sign = 2.0 * batch.label - 1.0
        losses = -log_sigmoid(sign * batch.beta * (ratio - batch.reference_point))
        return losses, preference_metrics(ratio, batch.label)
