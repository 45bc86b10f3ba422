"""Contrast across the threshold: a positive sample against negatives of any prompts, corrupted alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fine_tune.data.units import AcrossThreshold
from fine_tune.objectives.base import Batch, Objective
from fine_tune.objectives.ratios import log_ratio

if TYPE_CHECKING:
    from torch import Tensor

    from fine_tune.data.labels import Labels
    from fine_tune.data.units import Units


class ThresholdContrast(Objective):
    """-log [e^(r+) / (e^(r+) + sum of e^(r-) over the negatives)] with r = beta (log pi - log pi_ref).

    InfoNCE with the log-ratio as its critic; with one negative -log sigma(r+ - r-), DPO's loss on samples that need not
    be of one prompt. All samples of a unit share timestep and noise (or the mask), so that the noise of r cancels in
    the differences. Samples are dealt in proportion to their distance to tau, in place of TGO's weights.
    """

    pushes_away = True
    binds_differences = True

    @property
    def loss_samples(self) -> int:
        return 1 + self.params.threshold_contrast.negatives

    def units(self, labels: Labels, seed: int) -> Units:
        """A positive sample with its negatives, dealt anew every epoch."""
        options = self.params.threshold_contrast
        by_distance = options.deal == "distance"
        return AcrossThreshold(labels, negatives=options.negatives, by_distance=by_distance, seed=seed)

    def loss(
        self, policy_log_likelihood: Tensor, reference_log_likelihood: Tensor | None, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B / members,) losses of units whose first row is the positive sample.

        `accuracy` of a negative is 1 where the positive gained more, of a positive the mean over its negatives.
        """
        ratio = log_ratio(policy_log_likelihood, reference_log_likelihood)
        units = (batch.beta * ratio).view(-1, self.members)
        losses = units.logsumexp(1) - units[:, 0]
        wins = (1 + (units[:, :1] - units[:, 1:]).detach().sign()) / 2
        accuracy = wins.new_empty(units.shape)
        accuracy[:, 0], accuracy[:, 1:] = wins.mean(1), wins
        return losses, {"log_ratio": ratio.detach(), "accuracy": accuracy.flatten()}
