"""Direct Score Preference Optimization (ICLR 2025), by its official code, which differs between SD 1.5 and SDXL."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fine_tune.objectives.base import Batch, Contrast, Objective
from fine_tune.objectives.ratios import log_ratio, losers, pair_metrics, winners

if TYPE_CHECKING:
    from torch import Tensor


LEAST_DISTANCE = 0.1
"""Of the SDXL code: below this mean squared distance to the reference its loss no longer holds the distance."""


class Dspo(Objective):
    """Score matching of the winner, corrected by the preference; q = beta x margin of the log-ratios, as in DPO.

    With e = prediction - target and d = prediction - reference prediction, both of the winner, and k = 1 - sigma(q):

    `sd15`: mean |e - strength k d|^2. As e - a d = (1 - a) prediction + a reference prediction - target, this is the
    error of a mixture of policy and reference, exactly, and `Contrast.mixed` gives its log-likelihood; k keeps its
    gradient. For flows it is the same with velocities; for masked models the mixture is of logits, our extension.
    `sdxl`: k^2 mean d^2 where mean d^2 >= 0.1, else k^2, with no term that fits the winner. The official code asks
    the mean over a device's batch whether it is >= 0.1; here each pair is asked, so that nothing depends on how a
    batch is cut. For masked models d^2 is the divergence of the token distributions, our extension too.

    The official beta B stands for two numbers: beta / T = B / 2 in q, and (sd15) `strength` = B. SD 1.5's B = 0.001 is
    beta = 5e-7 at T = 0.001 with strength 0.001, which is SFT on winners to within 0.1 %: losers enter through k alone.
    """

    needs_contrast = True
    pairs = True

    def loss(
        self, policy_log_likelihood: Tensor, reference_log_likelihood: Tensor | None, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B / 2,) losses of rows 2i (winner) and 2i + 1 (loser). Raises ValueError without a contrast."""
        if batch.contrast is None:
            raise ValueError("dspo compares predictions, and the batch has no contrast")
        ratio = log_ratio(policy_log_likelihood, reference_log_likelihood)
        share = (-batch.beta * (winners(ratio) - losers(ratio))).sigmoid()
        if self.params.dspo.variant == "sd15":
            losses = -batch.temperature * self._mixed(self.params.dspo.strength * share, batch.contrast)
        else:
            distance = winners(batch.contrast.distance())
            losses = share.square() * distance.where(distance >= LEAST_DISTANCE, 1.0)
        return losses, pair_metrics(ratio)

    @staticmethod
    def _mixed(share: Tensor, contrast: Contrast) -> Tensor:
        """(P,) log-likelihoods of the winners' mixtures."""
        return winners(contrast.mixed(share.repeat_interleave(2)))
