"""Puts policy, decoder and rewards of a training together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune.policies.latent import LatentPolicy
from fine_tune.reward_backprop import scores
from fine_tune.reward_backprop.gradient import Chain, RewardGradient
from tgo_pipeline.errors import TgoError

if TYPE_CHECKING:
    from fine_tune.distributed.processes import Group
    from fine_tune.policies.base import Policy
    from fine_tune.reward_backprop.objectives import RewardObjective
    from fine_tune.training.accelerator import Accelerator
    from tgo_pipeline.params import Params


def gradient(
    objective: RewardObjective,
    policy: Policy,
    pipeline: Any,
    params: Params,
    scored: Path,
    accelerator: Accelerator,
    group: Group,
) -> RewardGradient:
    """How the objective comes by its gradient; loads the target's rewards.

    Raises `TgoError` for a model family or a reward that no gradient passes.
    """
    tuning, runtime = params.fine_tune, params.runtime
    if not isinstance(policy, LatentPolicy):
        raise TgoError(
            f"fine_tune.objective is {tuning.objective}, and no gradient passes the tokens that a "
            f"{type(pipeline).__name__} draws: use tgo or another objective on scored samples, or a model of latents."
        )
    score = scores.load(params, scored, accelerator.device, runtime.gradient_checkpointing)
    chain = Chain(pipeline.vae, score)
    return RewardGradient(policy, objective, chain, tuning, runtime, accelerator, group)
