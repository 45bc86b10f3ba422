"""Log-ratios to the reference, the one quantity that most objectives are functions of.

log pi = -error / T, so beta (log pi - log pi_ref) = -kappa Delta with Delta = error - error_ref and kappa = beta / T.
Official codes write kappa in one number; with T = 0.001: Diffusion-DPO 0.5 * 5000 is beta 2.5, Diffusion-KTO's paper
5000 is beta 5 and its code's 1000 is beta 1, TGO's beta 1 is 1000, Flow-DPO's 0.5 * 100 is beta 0.05.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def log_ratio(policy_log_likelihood: Tensor, reference_log_likelihood: Tensor | None) -> Tensor:
    """(B,) log pi - log pi_ref. Raises ValueError without a reference: the caller ignored `needs_reference`."""
    if reference_log_likelihood is None:
        raise ValueError("the objective compares with the reference, whose log-likelihood is missing")
    return policy_log_likelihood - reference_log_likelihood


def log_sigmoid(x: Tensor) -> Tensor:
    """log sigma(x), exact for any x; torch is imported here, so that naming an objective does not cost its import."""
    from torch.nn.functional import logsigmoid

    return logsigmoid(x)


def winners(values: Tensor) -> Tensor:
    """(P,) of the (2P,) values of a batch of pairs."""
    return values[0::2]


def losers(values: Tensor) -> Tensor:
    """(P,) of the (2P,) values of a batch of pairs."""
    return values[1::2]


def pair_metrics(log_ratio: Tensor) -> dict[str, Tensor]:
    """(2P,) `log_ratio`, and `accuracy`: 1 for both of a pair whose winner gained more than its loser, 1/2 if equal."""
    detached = log_ratio.detach()
    correct = (1 + (winners(detached) - losers(detached)).sign()) / 2
    return {"log_ratio": detached, "accuracy": correct.repeat_interleave(2)}
