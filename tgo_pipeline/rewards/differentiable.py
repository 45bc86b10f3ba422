"""Several rewards of one batch of images on a tensor, with gradients to the images.

scores = score_tensors({"clip": load_reward("clip")}, images, prompts)   # images (B, 3, H, W) in [0, 1]
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from tgo_pipeline.rewards.base import Reward


def score_tensors(
    rewards: Mapping[str, Reward], images: Tensor, prompts: Sequence[str], *, recompute: bool = False
) -> dict[str, Tensor]:
    """(B,) float32 scores by name. With `recompute` a reward's activations are made again in the backward pass.

    Then the rewards' activations are in memory one reward at a time.
    """
    if not recompute:
        return {name: reward.score_tensor(images, prompts) for name, reward in rewards.items()}
    scores: dict[str, Any] = {
        name: checkpoint(reward.score_tensor, images, prompts, use_reentrant=False)
        for name, reward in rewards.items()
    }
    return scores


def require_gradients(rewards: Iterable[Reward]) -> None:
    """Raise `TgoError` for the first reward that has no gradient, before anything is computed for it."""
    for reward in rewards:
        if not reward.has_gradient:
            reward.score_tensor(torch.empty(0), [])
