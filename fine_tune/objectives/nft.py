"""DiffusionNFT on stored scores: negative-aware fine-tuning in the space of predictions (arXiv 2509.16117; code)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fine_tune.data.prompt_statistics import prompt_means
from fine_tune.objectives.base import Batch, Objective, preference_metrics
from fine_tune.objectives.ratios import log_ratio
from tgo_pipeline.thresholds.targets import standard_deviation

if TYPE_CHECKING:
    from torch import Tensor

    from fine_tune.data.labels import Labels

MOST = 5.0
"""The official code cuts advantages here, and multiplies the loss by it."""


class Nft(Objective):
    """5 [l e(v+) + (1 - l) e(v-)] / b + k |v - v_ref|^2, v+ = (1 - b) v_ref + b v and v- = (1 + b) v_ref - b v.

    l in [0, 1] is the optimality of a sample, e the error of the denoised image, squared over absolute. A negative
    sample teaches the mirror image of the policy, whose error is at least 0: no gradient grows without end, and there
    is no likelihood, T or beta of `fine_tune`. v is noise for models that predict it: what is mixed is linear in it,
    and e is of the denoised image in either case. The published method draws anew from a moving average v_old; on
    stored samples of the base v_old is the reference, which makes it the first of its iterations.
    """

    needs_contrast = True

    def prepare(self, labels: Labels) -> Labels:
        """l of every sample in place of its label: 1/2 + a / 10 with the advantage a cut at 5, or the label.

        a is the distance to the threshold, or to the prompt's mean as published, in standard deviations of it. Raises
        `TgoError` if a side is empty, or nothing tells the samples apart.
        """
        labels = labels.only(self.sides)
        source = self.params.nft.optimality
        if source == "label":
            return labels
        distance = labels.relative_score
        if source == "prompt":
            distance = labels.score - prompt_means(labels.prompt_ids, labels.score)
        advantage = distance / standard_deviation(distance, "the advantage")
        return labels.labelled(advantage.clip(-MOST, MOST) / (2 * MOST) + 0.5)

    def loss(
        self, policy_log_likelihood: Tensor, reference_log_likelihood: Tensor | None, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B,) losses. Raises ValueError without a contrast, and `TgoError` for a family that predicts tokens."""
        if batch.contrast is None:
            raise ValueError("nft compares predictions, and the batch has no contrast")
        options, one = self.params.nft, batch.label.new_ones(len(batch.label))
        positive = batch.contrast.x0_error((1 - options.beta) * one)
        negative = batch.contrast.x0_error((1 + options.beta) * one)
        fit = batch.label * positive + (1 - batch.label) * negative
        losses = MOST * fit / options.beta + options.kl * batch.contrast.distance()
        ratio = log_ratio(policy_log_likelihood, reference_log_likelihood)
        return losses, preference_metrics(ratio, batch.label)
