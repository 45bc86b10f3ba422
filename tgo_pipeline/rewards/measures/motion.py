"""How much of a clip moves, and how much it flickers: numbers of pixels alone, to be read beside learnt rewards.

A model that is trained on a reward of frames may win by drawing still clips, or by trembling ones; these columns show
it. Both are in levels of brightness, 0 to 255 (luma of ITU-R 601).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.base import Reward

BLOCKS = 32
"""Blocks along the shorter side of a frame: means over them leave motion and take out the noise of pixels."""
LUMA = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Brightness:
    """A clip as the brightness of its pixels."""

    name: str

    def __call__(self, image: Any) -> np.ndarray:
        """(T, H, W) float32 of a `Clip`. Raises `TgoError` for a still image."""
        if isinstance(image, Image.Image):
            raise TgoError(f"reward {self.name} measures clips, and was given a still image.")
        return np.asarray(image.frames).astype(np.float32) @ LUMA

    def finish(self, pixels: Any) -> Any:
        """The values as they are."""
        return pixels

    def differentiable(self, images: Tensor) -> Tensor:
        """Raises `TgoError`: there is no gradient."""
        raise TgoError(f"reward {self.name} has no gradient.")


class _OfPixels(Reward):
    """A number of each clip; the prompt plays no part."""

    needs_prompt = False

    def encode_prompts(self, prompts: Sequence[str]) -> np.ndarray:
        """Nothing, (B,)."""
        return np.zeros(len(prompts))

    def combine(self, images: Tensor, prompts: np.ndarray) -> Tensor:
        return images


class Motion(_OfPixels):
    """The mean change of brightness from one frame to the next, of blocks; 0 for a still clip."""

    def __init__(self) -> None:
        super().__init__(
            "motion", "change of brightness from frame to frame, in levels", Brightness("motion")
        )

    def encode_images(self, pixels: Sequence[np.ndarray]) -> Tensor:
        """(B,); a clip of one frame has none."""
        return torch.tensor([_motion(clip) for clip in pixels], dtype=torch.float32)


class Flicker(_OfPixels):
    """How far the brightness of a frame's pixels is from the mean of the frames before and after it.

    0 for a still clip and for one that fades steadily; what moves has some as well, so compare clips of equal motion.
    """

    def __init__(self) -> None:
        super().__init__(
            "flicker", "brightness off the mean of its neighbours, in levels", Brightness("flicker")
        )

    def encode_images(self, pixels: Sequence[np.ndarray]) -> Tensor:
        """(B,); a clip of fewer than three frames has none."""
        return torch.tensor([_flicker(clip) for clip in pixels], dtype=torch.float32)


def _motion(clip: np.ndarray) -> float:
    side = max(1, min(clip.shape[1:]) // BLOCKS)
    blocks = functional.avg_pool2d(torch.from_numpy(clip)[:, None], side)
    return float(blocks.diff(dim=0).abs().mean())  # NaN for one frame


def _flicker(clip: np.ndarray) -> float:
    off = torch.from_numpy(clip[1:-1] - (clip[:-2] + clip[2:]) / 2)
    return float(off.abs().mean())  # NaN for two frames or one
