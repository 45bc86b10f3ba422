"""Quantile-reward policy optimisation: regression of the log-ratio on a reward whose normaliser is known exactly.

A reward q that is uniform on [0, 1] under the reference (the quantile of a score among the prompt's) has
Z = E[e^(q / beta)] = beta (e^(1 / beta) - 1) for every prompt, so the optimal policy of E[q] - beta KL satisfies
beta log(pi* / pi_ref) = q - beta log Z (arXiv 2507.08068). Its sign is that of q - tau_q with
tau_q = beta log Z: a threshold that needs no baseline of the prompt.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fine_tune.data.prompt_statistics import prompt_quantiles
from fine_tune.objectives.base import Batch, Objective, preference_metrics
from fine_tune.objectives.ratios import log_ratio
from tgo_pipeline.errors import TgoError
from tgo_pipeline.thresholds.baselines import tau_q

if TYPE_CHECKING:
    from torch import Tensor

    from fine_tune.data.labels import Labels


class Qrpo(Objective):
    """(q - beta log Z - beta (log pi - log pi_ref))^2, q the mid-rank of a score among its prompt's.

    beta is `qrpo.beta`, in units of q; `fine_tune.beta` plays no part, and T says what log pi is (kappa = beta / T).
    The official code takes beta log Z as beta log beta + 1 (eq. 11, right for small beta) and q as the share of scores
    that are not above the sample's; mid-ranks have mean 1/2 with few samples too. K images resolve q to 1 / K.
    """

    def prepare(self, labels: Labels) -> Labels:
        """All samples, q in place of the score. Raises `TgoError` if no prompt has two images of different score."""
        return labels.scored(quantile_rewards(labels))

    def loss(
        self, policy_log_likelihood: Tensor, reference_log_likelihood: Tensor | None, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B,) losses; `accuracy`: 1 where the log-ratio has the sign of q - tau_q."""
        beta = self.params.qrpo.beta
        ratio = log_ratio(policy_log_likelihood, reference_log_likelihood)
        target = batch.score - tau_q(beta)
        losses = (target - beta * ratio).square()
        return losses, preference_metrics(ratio, (target >= 0).to(ratio.dtype))


def quantile_rewards(labels: Labels) -> np.ndarray:
    """(N,) quantiles of the scores among their prompts'. Raises `TgoError` if they tell no images apart."""
    quantiles = prompt_quantiles(labels.prompt_ids, labels.score)
    if np.all(quantiles == 0.5):
        raise TgoError(
            f"no prompt of the {len(labels)} labelled samples has two images of different score, so each quantile "
            "within a prompt is one half: raise generate.images_per_prompt, or use an objective without quantiles."
        )
    return quantiles
