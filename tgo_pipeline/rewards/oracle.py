"""The oracle behind the reward seam, so that evaluation can show it like any other reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tgo_pipeline.demo import world
from tgo_pipeline.demo.oracle import oracle
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.base import Reward
from tgo_pipeline.rewards.files.layouts import Files


@dataclass(frozen=True)
class Pixels:
    """RGB image to its colours in [0, 1], (3, 32, 32); another size is resized."""

    def __call__(self, image: Image.Image) -> Tensor:
        size = (world.SIZE_PX, world.SIZE_PX)
        resized = image if image.size == size else image.resize(size, Image.Resampling.BICUBIC)
        return torch.from_numpy(np.array(resized)).permute(2, 0, 1)

    def finish(self, pixels: Tensor) -> Tensor:
        """Levels from 0 to 255 as float32 from 0 to 1."""
        return pixels.float() / 255

    def differentiable(self, images: Tensor) -> Tensor:
        """Raises `TgoError`: it has no gradient."""
        raise TgoError(
            "reward oracle is computed with numpy and has no gradient: take a reward that is a network."
        )


class OracleReward(Reward):
    """The true preference of the small world in [0, 1]; for evaluation, never for training."""

    def __init__(self) -> None:
        super().__init__("oracle", "true preference, 0 to 1", Pixels())

    @classmethod
    def load(cls, name: str, files: Files) -> OracleReward:
        """The oracle of the small world; it has no weights."""
        return cls()

    def encode_images(self, pixels: Tensor) -> Tensor:
        """The images themselves, (B, 3, 32, 32)."""
        return pixels

    def encode_prompts(self, prompts: Sequence[str]) -> np.ndarray:
        """The prompts themselves. Raises `TgoError` for one outside the small world's language."""
        try:
            for prompt in prompts:
                world.parse(prompt)
        except ValueError as error:
            raise TgoError(f"reward oracle: {error}") from error
        return np.array(list(prompts), dtype=object)

    def combine(self, images: Tensor, prompts: Any) -> Tensor:
        pixels = images.permute(0, 2, 3, 1).cpu().numpy()
        return torch.from_numpy(oracle(pixels, list(prompts)).astype(np.float32))
