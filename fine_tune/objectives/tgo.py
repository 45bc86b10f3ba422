"""Threshold-Guided Optimization: a weighted logistic loss on the log-ratio to the reference (arXiv 2605.04653)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fine_tune.objectives.base import Batch, Objective, ReferencePoint, preference_metrics
from fine_tune.objectives.qrpo import quantile_rewards
from fine_tune.objectives.ratios import log_ratio, log_sigmoid
from fine_tune.objectives.reference_points import reward_shift
from tgo_pipeline.errors import TgoError
from tgo_pipeline.thresholds.baselines import tau_q
from tgo_pipeline.thresholds.targets import standard_deviation

if TYPE_CHECKING:
    from torch import Tensor

    from fine_tune.data.labels import Labels


class Tgo(Objective):
    """-w [l log sigma(r) + d (1 - l) log sigma(-r)] with r = beta (log pi - log pi_ref - z).

    The paper's loss has d = 1, z = 0 and weights that are not normalised; its beta = 1 and T = 0.001 are kappa = 1000.
    Its slope in r is w (sigma(r) - l).
    With w = 1 it is BCO with delta = 0, and Diffusion-KTO with U = log sigma and z = 0 less a constant.

    Variants, all off by default: `damping` d scales the negative side, which alone can lower the loss without end by
    ruining the model; `reward_shift` z; `normalise_weights` divides w by its mean over the data set; `labels: quantile`
    and `soft_labels`, see `prepare`.
    """

    pushes_away = True

    @property
    def reference_point(self) -> ReferencePoint | None:
        return reward_shift(self.params.tgo.reward_shift)

    def prepare(self, labels: Labels) -> Labels:
        """Labels and weights of the variants.

        `labels: quantile`: l = 1[q >= tau_q(beta)], q the mid-rank of a score among its prompt's and tau_q QRPO's
        exact threshold at `quantile_beta`, with w = 1 + c |q - tau_q| in place of the distance to the global tau.
        `soft_labels` = h: l = sigma(x / (h sd)), where x is the signed distance to the threshold that labels
        (score - tau, or q - tau_q) and sd the standard deviation of x over the data set: at x = h sd l is 0.73.
        Raises `TgoError` if a side is empty.
        """
        options = self.params.tgo
        distance = labels.relative_score
        if options.labels == "quantile":
            distance = _quantile_distance(labels, options.quantile_beta)
            labels = labels.labelled((distance >= 0).astype(np.int8))
            labels = labels.weighted(1 + options.quantile_c * np.abs(distance))
        labels = labels.only(self.sides)
        if options.soft_labels is not None:
            unit = options.soft_labels * standard_deviation(distance, "the distance to the threshold")
            labels = labels.labelled(_sigmoid(distance / unit))
        return labels.weighted(labels.weight / labels.weight.mean()) if options.normalise_weights else labels

    def loss(
        self, policy_log_likelihood: Tensor, reference_log_likelihood: Tensor | None, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B,) losses. `logsigmoid` keeps the slope where the paper's log(sigma(r) + 1e-12) loses it, |r| > 27.6."""
        ratio = log_ratio(policy_log_likelihood, reference_log_likelihood)
        reward = batch.beta * (ratio - batch.reference_point)
        positive = -batch.label * log_sigmoid(reward)
        negative = -(1 - batch.label) * log_sigmoid(-reward)
        losses = batch.weight * (positive + self.params.tgo.damping * negative)
        return losses, preference_metrics(ratio, batch.label)


def _quantile_distance(labels: Labels, beta: float) -> np.ndarray:
    quantiles, threshold = quantile_rewards(labels), tau_q(beta)
    if quantiles.max() < threshold:
        raise TgoError(
            f"fine_tune.tgo.quantile_beta = {beta:g} puts the threshold at quantile {threshold:.3f}, and the highest "
            f"quantile within a prompt is {quantiles.max():.3f}: raise generate.images_per_prompt, or quantile_beta."
        )
    return quantiles - threshold


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return np.exp(-np.logaddexp(0, -x))
