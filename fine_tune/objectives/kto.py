"""Diffusion-KTO: the utility of the shifted log-ratio, from labels without pairs (arXiv 2404.04465; code)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fine_tune.objectives.base import Batch, Objective, ReferencePoint, preference_metrics
from fine_tune.objectives.ratios import log_ratio, log_sigmoid
from fine_tune.objectives.reference_points import BatchMean, MismatchedMean

if TYPE_CHECKING:
    from torch import Tensor


class Kto(Objective):
    """lambda_y (1 - U(s beta (log pi - log pi_ref - z))), s = 1 for desirable samples, -1 for others, z a constant.

    Utilities U: `sigmoid`; `loss_averse` log sigma(x); `risk_seeking` -log sigma(-x), whose loss has no lower bound.
    z is the mean log-ratio of the batch, clamped at 0 (`code`: what the official script does by default); that of the
    images under other prompts of the batch, clamped (`paper`) or not (`roll`: its `--bce_offset original`); or 0
    (`none`). beta / T is the official beta: the paper's 5000 is beta = 5 at T = 0.001, the script's 1000 is beta = 1.
    With small batches z is noisy. Official training draws 80 % desirable samples: `fine_tune.positive_share`.
    """

    pushes_away = True

    @property
    def reference_point(self) -> ReferencePoint | None:
        """The estimate of the divergence that `kto.reference_point` names: of the code, of the paper, or none."""
        name = self.params.kto.reference_point
        if name == "none":
            return None
        return BatchMean(clamped=True) if name == "code" else MismatchedMean(clamped=name == "paper")

    def loss(
        self, policy_log_likelihood: Tensor, reference_log_likelihood: Tensor | None, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B,) losses; the weights of the samples play no part."""
        options = self.params.kto
        ratio = log_ratio(policy_log_likelihood, reference_log_likelihood)
        sign = 2.0 * batch.label - 1.0
        utility = _utility(options.utility, sign * batch.beta * (ratio - batch.reference_point))
        scale = batch.label * options.desirable + (1 - batch.label) * options.undesirable
        return scale * (1 - utility), preference_metrics(ratio, batch.label)


def _utility(name: str, x: Tensor) -> Tensor:
    if name == "sigmoid":
        return x.sigmoid()
    return log_sigmoid(x) if name == "loss_averse" else -log_sigmoid(-x)
