"""The oracle behind the reward seam, so that evaluation can show it like any other reward."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tgo_pipeline.demo import moving, world
from tgo_pipeline.demo.moving_oracle import moving_oracle
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


@dataclass(frozen=True)
class ClipPixels:
    """A clip of the small world to its colours in [0, 1], (9, 3, 32, 32)."""

    name: str

    def __call__(self, image: Any) -> Tensor:
        """Of a `Clip`. Raises `TgoError` for a still image, and for clips of another size or number of frames."""
        if isinstance(image, Image.Image):
            raise TgoError(f"reward {self.name} scores clips, and was given a still image.")
        frames = np.asarray(image.frames)
        expected = (moving.FRAMES, world.SIZE_PX, world.SIZE_PX, 3)
        if frames.shape != expected:
            count, height, width = frames.shape[:3]
            raise TgoError(
                f"reward {self.name} knows clips of the small world alone, {moving.FRAMES} frames of {world.SIZE_PX} x "
                f"{world.SIZE_PX}, and was given {count} of {width} x {height}."
            )
        return torch.from_numpy(frames).permute(0, 3, 1, 2)

    def finish(self, pixels: Tensor) -> Tensor:
        """Levels to [0, 1], of any shape."""
        return pixels.float() / 255

    def differentiable(self, images: Tensor) -> Tensor:
        """Raises `TgoError`: rewards with a gradient read images."""
        raise TgoError(f"reward {self.name} scores clips: only rewards of images have a gradient here.")


class MovingOracleReward(Reward):
    """The true preference of the small world of clips in [0, 1]; for evaluation, never for training."""

    def __init__(self) -> None:
        super().__init__("moving_oracle", "true preference of clips, 0 to 1", ClipPixels("moving_oracle"))

    def encode_images(self, pixels: Tensor) -> Tensor:
        """The clips themselves, (B, 9, 3, 32, 32)."""
        return pixels

    def encode_prompts(self, prompts: Sequence[str]) -> np.ndarray:
        """The prompts themselves. Raises `TgoError` for one that is no caption of a clip of the small world."""
        try:
            for prompt in prompts:
                moving.parse(prompt)
        except ValueError as error:
            raise TgoError(f"reward moving_oracle: {error}") from error
        return np.array(list(prompts), dtype=object)

    def combine(self, images: Tensor, prompts: Any) -> Tensor:
        clips = images.permute(0, 1, 3, 4, 2).cpu().numpy()
        return torch.from_numpy(moving_oracle(clips, list(prompts)).astype(np.float32))
