"""The target score of images on a tensor, with a gradient; and what other rewards say of them, without one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import TARGET_COMBINATIONS
from tgo_pipeline.rewards import fingerprint as reward_fingerprint
from tgo_pipeline.rewards import load_reward
from tgo_pipeline.rewards.differentiable import require_gradients, score_tensors
from tgo_pipeline.rewards.engine.scorer import score_all
from tgo_pipeline.rewards.specs import Spec, resolve_all
from tgo_pipeline.storage.fingerprints import fingerprint
from tgo_pipeline.thresholds.targets import (
    column,
    finite,
    read_scores,
    reference_folder,
    scores_fingerprint,
    standard_deviation,
)

if TYPE_CHECKING:
    from tgo_pipeline.params import Params
    from tgo_pipeline.rewards.base import Reward

REWARD, HELD_OUT = "reward", "held_out"
"""What metrics begin with: the target and its rewards, and rewards that are not trained on."""


@dataclass(frozen=True)
class Unit:
    """What a reward is measured in before it is averaged: (s - mean) / deviation."""

    mean: float = 0.0
    deviation: float = 1.0


@dataclass(frozen=True)
class TargetScore:
    """The mean of a target's rewards in their units: one reward as it is, or `mean_z`."""

    rewards: Mapping[str, Reward]
    units: Mapping[str, Unit]
    held_out: Mapping[str, Reward] = field(default_factory=dict)
    recompute: bool = False

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> tuple[Tensor, dict[str, Tensor]]:
        """(B,) float32 scores with a gradient to images (B, 3, H, W) in [0, 1], and (B,) metrics without one.

        Raises `TgoError` for images that are no numbers.
        """
        if not torch.isfinite(images).all():
            raise TgoError(
                "images that were sampled to train on are NaN or infinite: training has diverged, and the weights from "
                "before it are in the last checkpoint. Lower fine_tune.learning_rate, or use precision fp32."
            )
        scores = score_tensors(self.rewards, images, prompts, recompute=self.recompute)
        units = [(scores[name] - unit.mean) / unit.deviation for name, unit in self.units.items()]
        target = torch.stack(units).mean(0)
        metrics = {REWARD: target.detach()}
        if len(scores) > 1:
            metrics |= {f"{REWARD}_{_plain(name)}": each.detach() for name, each in scores.items()}
        return target, metrics | self._held_out(images, prompts)

    def _held_out(self, images: Tensor, prompts: Sequence[str]) -> dict[str, Tensor]:
        if not self.held_out:
            return {}
        levels = (images.detach() * 255).round().to(torch.uint8)
        columns = score_all(self.held_out, list(levels.cpu()), prompts, batch_size=len(levels)).columns
        return {
            f"{HELD_OUT}_{_plain(name)}": torch.from_numpy(values).to(images.device)
            for name, values in columns.items()
        }


def _plain(name: str) -> str:
    """A reward's name as a part of a metric's, which is the name of a file: a dot would end it."""
    return name.replace(".", "_")


def load(params: Params, scores: Path, device: torch.device, recompute: bool) -> TargetScore:
    """Load the target's rewards in float32 (gradients of halves vanish), and those that are held out.

    `scores` are those that `mean_z` is measured against. Raises `TgoError` for a reward without a gradient.
    """
    rewards = {name: _load(spec, device) for name, spec in params.target_specs.items()}
    require_gradients(rewards.values())
    every = {**params.evaluate.rewards, **params.score.rewards}
    others = resolve_all({name: every[name] for name in params.fine_tune.held_out})
    held_out = {name: load_reward(spec, None, device, params.score.dtype) for name, spec in others.items()}
    return TargetScore(rewards, _units(params, scores), held_out, recompute)


def _load(spec: Spec, device: torch.device) -> Any:
    return load_reward(spec, None, device, "fp32")


def _units(params: Params, scores: Path) -> dict[str, Unit]:
    names = params.target_rewards
    if params.target.reward not in TARGET_COMBINATIONS:
        return {name: Unit() for name in names}
    frame = read_scores(reference_folder(params.threshold, scores), names)
    known = {name: finite(column(frame, name)) for name in names}
    return {name: Unit(float(each.mean()), standard_deviation(each, name)) for name, each in known.items()}


def mark(params: Params, scores: Path) -> str:
    """What a training's target depends on besides its parameters."""
    combined = params.target.reward in TARGET_COMBINATIONS
    return fingerprint(
        target=[params.target.reward, params.target_rewards],
        reference=scores_fingerprint(reference_folder(params.threshold, scores)) if combined else None,
        rewards=[reward_fingerprint(spec) for spec in params.target_specs.values()],
    )
