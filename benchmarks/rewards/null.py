"""Rewards that cost nothing, and images that cost nothing to decode: what is left is the way between the processes.

`PipePreparer` is the way before shared memory: encoded bytes go to the workers through one pipe, pixels come back
through another.
"""

from __future__ import annotations

import functools
import io
from collections.abc import Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from tgo_pipeline.rewards.engine.workers import Preparer, _processes

SIDE = 224


@functools.cache
def _constant(dtype: torch.dtype) -> Tensor:
    return torch.ones(3, SIDE, SIDE, dtype=dtype)


@dataclass(frozen=True)
class NullPreparation:
    """Pixels of the shape and type that rewards get, always the same ones."""

    dtype: torch.dtype

    @property
    def layout(self) -> tuple[tuple[int, int, int], torch.dtype]:
        return (3, SIDE, SIDE), self.dtype

    def __call__(self, image: Image.Image) -> Tensor:
        return _constant(self.dtype)

    def finish(self, pixels: Tensor) -> Tensor:
        return pixels

    def differentiable(self, images: Tensor) -> Tensor:
        raise NotImplementedError


class NullReward:
    """Looks at one value of each image."""

    needs_prompt = False
    device = torch.device("cpu")

    def __init__(self, name: str, preprocessing: Any) -> None:
        self.name, self.preprocessing = name, preprocessing

    @property
    def image_encoder(self) -> object:
        return self

    def encode_images(self, pixels: Tensor) -> Tensor:
        return pixels[:, 0, 0, 0].float()

    def encode_prompts(self, prompts: Sequence[str]) -> Tensor:
        return torch.zeros(len(prompts))

    def combine(self, images: Tensor, prompts: Tensor) -> Tensor:
        return images


def null_rewards() -> dict[str, NullReward]:
    """Two, with the pixels that the five rewards get of a square image: 753 kB."""
    types = {"float": torch.float32, "bytes": torch.uint8}
    return {name: NullReward(name, NullPreparation(dtype)) for name, dtype in types.items()}


def light_png(size_bytes: int) -> bytes:
    """A file of so many bytes that is decoded in no time: decoders do not look behind the end of the image."""
    stream = io.BytesIO()
    Image.new("RGB", (8, 8)).save(stream, "PNG")
    return stream.getvalue().ljust(size_bytes, b"\0")


class PipePreparer(Preparer):
    """Pixels are pickled and sent."""

    def _start(self) -> Executor:
        return _processes(self.workers, None)
