"""The size of an image as a JPEG of quality 95 in kilobytes (1,000 bytes), as DDPO measures it (arXiv:2305.13301).

DDPO's `compressibility` is minus this number: take the low end of the target. Resolution counts: compare images of one
size.
"""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tgo_pipeline.rewards.base import Reward
from tgo_pipeline.rewards.custom import AsIs

QUALITY = 95


class JpegSize(Reward):
    """Kilobytes of a JPEG; the prompt plays no part."""

    needs_prompt = False

    def __init__(self) -> None:
        super().__init__("jpeg_kb", "kilobytes of a JPEG of quality 95", AsIs())

    def encode_images(self, pixels: Sequence[Image.Image]) -> Tensor:
        """The kilobytes, (B,)."""
        return torch.tensor([_bytes(image) / 1000 for image in pixels], dtype=torch.float32)

    def encode_prompts(self, prompts: Sequence[str]) -> np.ndarray:
        """Nothing, (B,)."""
        return np.zeros(len(prompts))

    def combine(self, images: Tensor, prompts: np.ndarray) -> Tensor:
        return images


def _bytes(image: Image.Image) -> int:
    file = io.BytesIO()
    image.save(file, "JPEG", quality=QUALITY)
    return file.tell()
