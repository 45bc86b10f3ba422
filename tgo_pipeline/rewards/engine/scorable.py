"""What the engine asks of a reward."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor


class Preparation(Hashable, Protocol):
    """How an image becomes what a network sees, in two steps; equal preparations give equal tensors.

    The first step runs in worker threads or processes, the second on the network's device. One that also has a property
    `layout`, the shape and the type of what its first step gives for every image, is read from shared memory,
    which is used again once the images have scores; results of others are sent from process to process.
    """

    def __call__(self, image: Image.Image) -> Any:
        """RGB image to (3, S, S): uint8, or float32 in [0, 1] where resizing happens in floating point."""
        ...

    def finish(self, pixels: Any) -> Any:
        """A batch of those, (B, 3, S, S), to float32 as the network expects it."""
        ...

    def differentiable(self, images: Tensor) -> Tensor:
        """Both steps in torch operations: (B, 3, H, W) in [0, 1] to (B, 3, S, S), with gradients."""
        ...


class Scorable(Protocol):
    """The part of a reward that scoring many images uses; `tgo_pipeline.rewards.base.Reward` has it."""

    name: str
    needs_prompt: bool
    preprocessing: Preparation

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        ...

    @property
    def image_encoder(self) -> object:
        """The object whose identity says that two rewards have the same `encode_images`."""
        ...

    def encode_images(self, pixels: Any) -> Any:
        """Prepared images (B, 3, S, S) to whatever `combine` needs of them, (B, ...)."""
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> Any:
        """Prompts to what `combine` needs of them: a tensor or array whose first axis is the prompt."""
        ...

    def combine(self, images: Any, prompts: Any) -> Tensor:
        """Encoded images and as many encoded prompts to scores (B,)."""
        ...
