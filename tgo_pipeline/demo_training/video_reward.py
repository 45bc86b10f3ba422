"""Train the small world's learnt reward of clips, on choices of an annotator who follows the oracle with noise.

Half of the choices are between two clips of a caption, half between two captions of a clip. Half of the clips are as
drawn, half have been through the VAE of the model: a judge of sharp clips alone is a poor one of what the model draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from tgo_pipeline.demo import moving
from tgo_pipeline.demo.moving_oracle import moving_oracle
from tgo_pipeline.demo_training.base_model import optimise
from tgo_pipeline.rewards.moving_choice import MovingChoice
from tgo_pipeline.seeds import derive_seed


@dataclass(frozen=True)
class ChoiceTraining:
    """How many captions of two clips each, how long, and how noisy the annotators are (oracle units)."""

    captions: int = 1_500
    steps: int = 900
    batch: int = 64
    learning_rate: float = 1e-3
    annotator_noise: float = 0.06
    checkpoint_every: int = 500


@dataclass(frozen=True)
class ClipPool:
    """Clips in pairs: rows 2i and 2i + 1 show caption i; `clips` is (2N, 9, 32, 32, 3) uint8."""

    captions: list[str]
    others: list[str]
    """Captions that differ from these in one word."""
    clips: np.ndarray
    scores: np.ndarray
    """The oracle's, of each clip for its caption and for the other one, (2N, 2)."""


Blur = Callable[[np.ndarray], np.ndarray]
"""Clips (N, 9, 32, 32, 3) uint8 as the VAE gives them back."""


def train_choice(folder: Path, blur: Blur, seed: int, training: ChoiceTraining | None = None) -> Path:
    """Train the reward if `folder` lacks it, and return its folder `folder/rewards/moving_choice`."""
    training = training or ChoiceTraining()
    result = folder / "rewards/moving_choice"
    if (result / "model.safetensors").is_file():
        return result
    pool = make_pool(blur, seed, training)
    torch.manual_seed(derive_seed(seed, "moving_choice", "initialise"))
    reward = MovingChoice()
    _train(folder / "moving_choice.pt", reward, pool, seed, training)
    reward.save(result)
    return result


def make_pool(blur: Blur, seed: int, training: ChoiceTraining) -> ClipPool:
    """Two spoilt clips for each of some captions; those of every other caption have been through the VAE."""
    rng = np.random.default_rng(derive_seed(seed, "moving_choice", "captions"))
    captions = [str(text) for text in rng.choice(moving.captions(), training.captions)]
    clips = moving.clips(_twice(captions), derive_seed(seed, "moving_choice", "clips"))
    blurred = np.arange(len(clips)) // 2 % 2 == 1
    clips[blurred] = blur(clips[blurred])
    others = [_other(text, rng) for text in captions]
    scores = [moving_oracle(clips, _twice(texts)) for texts in (captions, others)]
    return ClipPool(captions, others, clips, np.stack(scores, 1))


def _twice(texts: list[str]) -> list[str]:
    return [text for text in texts for _ in range(2)]


def _other(caption: str, rng: np.random.Generator) -> str:
    """The caption of a scene that differs in one thing."""
    scene = moving.parse(caption)
    things = {
        "colour": moving.COLOURS,
        "shape": moving.SHAPES,
        "background": moving.BACKGROUNDS,
        "direction": tuple(moving.DIRECTIONS),
    }
    name = str(rng.choice(list(things)))
    left = [value for value in things[name] if value != getattr(scene, name)]
    return replace(scene, **{name: str(rng.choice(left))}).caption


def _train(path: Path, reward: MovingChoice, pool: ClipPool, seed: int, training: ChoiceTraining) -> None:
    """Bradley-Terry on the annotator's choices."""
    half = training.batch // 2

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng(derive_seed(seed, str(step), "moving_choice"))
        two, one = rng.integers(len(pool.captions), size=(2, half))
        clip = 2 * one + rng.integers(2, size=half)
        clips = np.concatenate([2 * two, clip, 2 * two + 1, clip])
        own = [pool.captions[row] for row in np.concatenate([two, one, two])]
        texts = own + [pool.others[row] for row in one]
        measured = pool.scores[clips, np.repeat([0, 0, 0, 1], half)]
        left, right = np.split(measured, 2)
        chosen = rng.random(len(left)) < 1 / (1 + np.exp((right - left) / training.annotator_noise))
        pixels = torch.from_numpy(pool.clips[clips]).permute(0, 1, 4, 2, 3).float() / 255
        scores = reward.combine(reward.encode_images(pixels), reward.encode_prompts(texts))
        first, second = scores.chunk(2)
        sign = torch.from_numpy(np.where(chosen, 1.0, -1.0).astype(np.float32))
        return -logsigmoid(sign * (first - second)).mean()

    optimise(
        path,
        reward,
        loss,
        training.steps,
        training.learning_rate,
        training.checkpoint_every,
        "moving_choice",
    )
