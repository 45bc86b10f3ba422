"""Threshold-Guided Optimization: a weighted logistic loss on the log-ratio to the reference (arXiv 2605.04653)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fine_tune.objectives.base import Batch, Objective

if TYPE_CHECKING:
    from torch import Tensor


def loss(
    policy_log_likelihood: Tensor, reference_log_likelihood: Tensor | None, batch: Batch
) -> tuple[Tensor, dict[str, Tensor]]:
    """-w [l log sigma(r) + (1 - l) log sigma(-r)] with r = beta (log pi - log pi_ref), for each of (B,) samples.

    Its gradient in r is w (sigma(r) - l). `logsigmoid` keeps it exact where the paper's log(sigma(r) + 1e-12)
    is constant and stops learning (|r| > 27.6). Weights are not normalised. Metrics: `log_ratio`
    (log pi - log pi_ref) and `accuracy` (1 where the log-ratio has the label's sign, one half where it is 0).
    """
    from torch.nn.functional import logsigmoid

    if reference_log_likelihood is None:
        raise ValueError("tgo compares with the reference, whose log-likelihood is missing")
    log_ratio = policy_log_likelihood - reference_log_likelihood
    sign = 2.0 * batch.label - 1.0
    losses = -batch.weight * logsigmoid(sign * batch.beta * log_ratio)
    detached = log_ratio.detach()
    return losses, {"log_ratio": detached, "accuracy": (1 + (sign * detached).sign()) / 2}


OBJECTIVE = Objective(loss, needs_reference=True)
