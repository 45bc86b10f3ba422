"""Reward models: one file each, found by name here; `load_reward` reads official checkpoints from local folders.

    load_reward("hpsv2.1", "weights/hpsv2.1").score(images, prompts)  # float32 (N,), in the reward's own units

What belongs into a folder is stated in `layouts.py`.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from tgo_pipeline.rewards.layouts import fingerprint, locate

if TYPE_CHECKING:
    import torch

    from tgo_pipeline.rewards.base import Reward

__all__ = ["REWARDS", "fingerprint", "load_reward"]

REWARDS: dict[str, str] = {
    "hpsv2.1": "tgo_pipeline.rewards.hpsv2:HPSv2",
    "hpsv2.0": "tgo_pipeline.rewards.hpsv2:HPSv2",
    "pickscore": "tgo_pipeline.rewards.pickscore:PickScore",
    "imagereward": "tgo_pipeline.rewards.image_reward:ImageReward",
    "clip": "tgo_pipeline.rewards.clip_score:ClipScore",
    "aesthetic": "tgo_pipeline.rewards.aesthetic:Aesthetic",
    "oracle": "tgo_pipeline.demo.oracle_reward:OracleReward",
}


def load_reward(name: str, source: str, device: str | torch.device = "cpu") -> Reward:
    """Load reward `name` for scoring: frozen, in float32, on `device`.

    `source` is `demo`, a local folder, or the official weight file itself with its companions beside it. Raises
    `TgoError` for an unknown name, missing files, and weights that do not fit the configuration.
    """
    files = locate(name, source)
    module, kind = REWARDS[name].split(":")
    reward = getattr(importlib.import_module(module), kind).load(name, files)
    return reward.requires_grad_(False).eval().to(device)
