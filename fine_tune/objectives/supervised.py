"""Objectives on a model's own error -T log pi, without a reference: of one side, of both, of all with weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from fine_tune.data.labels import NEGATIVE, POSITIVE
from fine_tune.data.prompt_statistics import prompt_means
from fine_tune.objectives.base import Batch, Objective
from tgo_pipeline.thresholds.targets import standard_deviation

if TYPE_CHECKING:
    from torch import Tensor

    from fine_tune.data.labels import Labels


class _OwnError(Objective):
    needs_reference = False

    def loss(
        self, policy_log_likelihood: Tensor, reference_log_likelihood: Tensor | None, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B,) errors."""
        return -batch.temperature * policy_log_likelihood, {}


class _WeightedError(_OwnError):
    def loss(
        self, policy_log_likelihood: Tensor, reference_log_likelihood: Tensor | None, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B,) weighted errors."""
        errors, metrics = super().loss(policy_log_likelihood, reference_log_likelihood, batch)
        return batch.weight * errors, metrics


class Sft(_OwnError):
    """Supervised fine-tuning: -T log pi on positive samples; weights, beta and reference play no part.

    The other side never enters a batch: the trainer's mean is the mean over the side, so its denominator does not
    depend on how many other samples a batch would have held (as it does in Diffusion-KTO's `--loss sft`), and no
    forward pass is spent on a sample that teaches nothing. `side: negative` trains the negative module of cPGD (the
    official `--sft_mode lose`, arXiv 2602.18799).
    """

    @property
    def sides(self) -> frozenset[int]:
        return frozenset((POSITIVE if self.params.sft.side == "positive" else NEGATIVE,))


class Csft(_OwnError):
    """Conditional fine-tuning (HPSv1, arXiv 2303.14420): -T log pi on both sides; the prefix teaches which is which.

    Published prefixes: "good image " and "bad image " (the baseline of Diffusion-KTO's paper), or none and
    "Weird image. " (HPSv1's code). The result is sampled with the positive prefix and the negative one as negative
    prompt: without them it is the mixture of both sides.
    """

    @property
    def prefixes(self) -> Mapping[int, str]:
        return {POSITIVE: self.params.csft.positive_prefix, NEGATIVE: self.params.csft.negative_prefix}

    @property
    def sampling(self) -> Mapping[str, str]:
        """The words that positive samples were trained with, and those of negative ones to be drawn away from."""
        wanted = {
            "prompt_prefix": self.params.csft.positive_prefix,
            "negative_prompt": self.params.csft.negative_prefix.strip(),
        }
        return {key: text for key, text in wanted.items() if text}


class Rwr(_WeightedError):
    """Reward-weighted regression (Peters & Schaal 2007): w m, m = -T log pi, w proportional to exp(s / b).

    b is `rwr.temperature` in standard deviations of the score. `softmax`: w = N softmax(s / b), of mean 1;
    `max`: w = exp((s - max s) / b), at most 1.
    """

    def prepare(self, labels: Labels) -> Labels:
        """All samples, on both sides, with the weights. Raises `TgoError` if all scores are equal."""
        options = self.params.rwr
        score = labels.score.astype(np.float64)
        unit = options.temperature * standard_deviation(score, "the target score")
        weight = np.exp((score - score.max()) / unit)
        return labels.weighted(weight / weight.mean() if options.normalise == "softmax" else weight)


class Awr(_WeightedError):
    """Advantage-weighted regression (arXiv 1910.00177): w m, w = min(exp((s - mean s of the prompt) / b), 20).

    b is `awr.temperature` in standard deviations of the score, 20 is `awr.max_weight`. With one image per prompt every
    weight is 1.
    """

    def prepare(self, labels: Labels) -> Labels:
        """All samples, on both sides, with the weights. Raises `TgoError` if all scores are equal."""
        options = self.params.awr
        score = labels.score.astype(np.float64)
        unit = options.temperature * standard_deviation(score, "the target score")
        advantage = (score - prompt_means(labels.prompt_ids, score)) / unit
        return labels.weighted(np.exp(np.minimum(advantage, np.log(options.max_weight))))
