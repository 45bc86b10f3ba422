"""A small network that learnt noisy choices between clips of the small world: the learnt reward of `demo-video`.

Unlike a mean over frames it sees the frames together, and so what moves where. Folder: `model.safetensors`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from tgo_pipeline.demo import moving
from tgo_pipeline.devices import to_device
from tgo_pipeline.hub.checkpoint import load_weights, read_weights, write_weights
from tgo_pipeline.rewards.base import Reward
from tgo_pipeline.rewards.files.layouts import Files
from tgo_pipeline.rewards.networks.precision import Precision
from tgo_pipeline.rewards.oracle import ClipPixels

WIDTH = 96
WORDS = tuple(sorted({word for text in moving.captions() for word in text.replace(",", "").split()}))
"""What it reads of a prompt; all else is nothing to it."""


class MovingChoice(Reward):
    """Convolutions over all frames at once, and the sum of the prompt's words; scores are logits of being chosen."""

    def __init__(self) -> None:
        super().__init__(
            "moving_choice",
            "logits of being chosen, of the small world of clips",
            ClipPixels("moving_choice"),
        )
        self.clip = nn.Sequential(
            nn.Conv2d(3 * moving.FRAMES, 48, 5, stride=2, padding=2),
            nn.GELU(),
            nn.Conv2d(48, 64, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Conv2d(64, 64, 3, stride=2, padding=1),
            nn.GELU(),
            nn.Flatten(),
            nn.Linear(64 * 16, WIDTH),
        )
        self.words = nn.Embedding(1 + len(WORDS), WIDTH, padding_idx=0)
        self.head = nn.Sequential(nn.Linear(3 * WIDTH, WIDTH), nn.GELU(), nn.Linear(WIDTH, 1))

    @classmethod
    def load(cls, name: str, files: Files, precision: Precision = "fp32") -> MovingChoice:
        """Build from files; it computes in float32. Raises `TgoError` if the weights are of another network."""
        reward = cls()
        load_weights(reward, read_weights(files.weights), files.weights)
        return reward

    def save(self, folder: Path, metadata: dict[str, str] | None = None) -> None:
        """Write the folder that `load_reward` reads."""
        write_weights(folder / "model.safetensors", self.state_dict(), metadata)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """Clips (B, 9, 3, 32, 32) in [0, 1] to (B, 96)."""
        return self.clip(2 * pixels.flatten(1, 2) - 1)

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        """(B, 96)."""
        return self.words(to_device(word_ids(prompts), self.device)).sum(1)

    def combine(self, images: Tensor, prompts: Tensor) -> Tensor:
        return self.head(torch.cat([images, prompts, images * prompts], 1)).squeeze(1)


def word_ids(prompts: Sequence[str]) -> Tensor:
    """For every word that it knows 1 + its place in `WORDS`, 0 for the others, (N, L)."""
    known = {word: place for place, word in enumerate(WORDS, start=1)}
    rows = [
        torch.tensor([known.get(word, 0) for word in text.lower().replace(",", " ").split()] or [0])
        for text in prompts
    ]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)
