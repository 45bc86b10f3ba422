"""Reward-weighted regression: every sample, weighted by the exponential of its score (Peters & Schaal 2007)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fine_tune.objectives.base import Batch, Objective
from tgo_pipeline.thresholds.targets import standard_deviation

if TYPE_CHECKING:
    from torch import Tensor

    from fine_tune.data.labels import Labels


class Rwr(Objective):
    """w m, m the model's own error -T log pi, w proportional to exp(s / b); no reference.

    b is `rwr.temperature` in standard deviations of the score. `softmax`: w = N softmax(s / b), of mean 1;
    `max`: w = exp((s - max s) / b), at most 1.
    """

    needs_reference = False

    def prepare(self, labels: Labels) -> Labels:
        """All samples, on both sides, with the weights. Raises `TgoError` if all scores are equal."""
        options = self.params.rwr
        score = labels.score.astype(np.float64)
        unit = options.temperature * standard_deviation(score, "the target score")
        weight = np.exp((score - score.max()) / unit)
        return labels.weighted(weight / weight.mean() if options.normalise == "softmax" else weight)

    def loss(
        self, policy_log_likelihood: Tensor, reference_log_likelihood: Tensor | None, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B,) weighted errors."""
        return -batch.weight * batch.temperature * policy_log_likelihood, {}
