"""Advantage-weighted regression: weights from the score above its prompt's mean (arXiv 1910.00177)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fine_tune.data.prompt_statistics import prompt_means
from fine_tune.objectives.base import Batch, Objective
from tgo_pipeline.thresholds.targets import standard_deviation

if TYPE_CHECKING:
    from torch import Tensor

    from fine_tune.data.labels import Labels


class Awr(Objective):
    """w m, m the model's own error -T log pi, w = min(exp((s - mean s of the prompt) / b), 20); no reference.

    b is `awr.temperature` in standard deviations of the score, 20 is `awr.max_weight`. With one image per prompt every
    weight is 1.
    """

    needs_reference = False

    def prepare(self, labels: Labels) -> Labels:
        """All samples, on both sides, with the weights. Raises `TgoError` if all scores are equal."""
        options = self.params.awr
        score = labels.score.astype(np.float64)
        unit = options.temperature * standard_deviation(score, "the target score")
        advantage = (score - prompt_means(labels.prompt_ids, score)) / unit
        return labels.weighted(np.exp(np.minimum(advantage, np.log(options.max_weight))))

    def loss(
        self, policy_log_likelihood: Tensor, reference_log_likelihood: Tensor | None, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B,) weighted errors."""
        return -batch.weight * batch.temperature * policy_log_likelihood, {}
