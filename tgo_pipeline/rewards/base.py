"""The reward seam: a picture and a prompt in, one number out.

A reward is split so that work can be shared: pictures are prepared once per `preprocessing`, encoded once per
`image_encoder`, prompts are encoded once each, and `combine` makes scores of the two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.layouts import Files

if TYPE_CHECKING:
    from tgo_pipeline.rewards.images import ImageInput


class Preparation(Hashable, Protocol):
    """How a picture becomes what a network sees, in two steps; equal preparations give equal tensors.

    The first step runs in worker threads or processes, the second on the network's device.
    """

    def __call__(self, image: Image.Image) -> Any:
        """RGB picture to (3, S, S): uint8, or float32 in [0, 1] where resizing happens in floating point."""
        ...

    def finish(self, pixels: Any) -> Any:
        """A batch of those, (B, 3, S, S), to float32 as the network expects it."""
        ...

    def differentiable(self, images: Tensor) -> Tensor:
        """Both steps in torch operations: (B, 3, H, W) in [0, 1] to (B, 3, S, S), with gradients."""
        ...


class Reward(nn.Module, ABC):
    """What every reward offers. Its numbers are in the units that `scale` states in words."""

    typical_range: tuple[float, float] | None = None
    """Where the scores of the official weights usually lie, low and high."""
    needs_prompt = True
    """Whether the prompt plays a part in the score."""

    def __init__(self, name: str, scale: str, preprocessing: Preparation) -> None:
        super().__init__()
        self.name = name
        self.scale = scale
        self.preprocessing = preprocessing
        self.identity: dict[str, str] = {"reward": name}
        """What exactly gives the scores: reward, source, sha256 of the weights, precision."""

    @property
    def device(self) -> torch.device:
        """Where the network is; the CPU if the reward has none."""
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    @property
    def image_encoder(self) -> object:
        """The object whose identity says that two rewards have the same `encode_images`."""
        return self

    def prepare(self, image: Image.Image) -> Tensor:
        """RGB picture to what the network sees, float32 (3, S, S)."""
        return self.preprocessing.finish(self.preprocessing(image)[None])[0]

    @abstractmethod
    def encode_images(self, pixels: Any) -> Any:
        """Prepared pictures (B, 3, S, S) to whatever `combine` needs of them, (B, ...)."""

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Any:
        """Prompts to what `combine` needs of them: a tensor or array whose first axis is the prompt."""

    @abstractmethod
    def combine(self, images: Any, prompts: Any) -> Tensor:
        """Encoded pictures and as many encoded prompts to scores (B,)."""

    def score(
        self,
        images: Sequence[ImageInput],
        prompts: Sequence[str] | None = None,
        *,
        prompt: str | None = None,
        batch_size: int | None = None,
        workers: int = 0,
    ) -> np.ndarray:
        """Score pairs of image and prompt: float32 (N,), in the order given, in the units that `scale` names.

        An image is a PIL image, a path, the bytes of an image file, or uint8 pixels: an array (H, W, 3) or a tensor
        (3, H, W). `prompts` has one for each image; `prompt` is one for all of them. With `workers` processes decode
        and resize, else threads. Raises `TgoError` if the numbers differ, or an image cannot be read.
        """
        from tgo_pipeline.rewards.scorer import score_all

        scores = score_all(
            {self.name: self}, images, prompts, prompt=prompt, batch_size=batch_size, workers=workers
        )
        for row, reason in scores.errors.items():
            raise TgoError(f"image {row} of {len(images)} cannot be scored: {reason}.")
        return scores.columns[self.name]


class NetworkReward(Reward):
    """A reward that is a network: differentiable, and with a way back to official files."""

    @classmethod
    @abstractmethod
    def load(cls, name: str, files: Files) -> NetworkReward:
        """Build the reward from located files. Raises `TgoError` if they do not fit together."""

    @abstractmethod
    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Prompts to token ids, int64 (B, L), on the CPU."""

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """Token ids (B, L) to what `combine` needs of them; the ids themselves unless overridden."""
        return tokens

    def encode_prompts(self, prompts: Sequence[str], batch_size: int = 64) -> Tensor:
        """Encode prompts on the reward's device, some at a time."""
        tokens = self.tokenize(prompts).to(self.device)
        return torch.cat([self.encode_tokens(part) for part in tokens.split(batch_size)])

    def forward(self, pixels: Tensor, tokens: Tensor) -> Tensor:
        """Scores (B,) of prepared pictures (B, 3, S, S) and token ids (B, L)."""
        return self.combine(self.encode_images(pixels), self.encode_tokens(tokens))

    def score_tensor(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Scores (B,) of images (B, 3, H, W) in [0, 1], with gradients to the images; one prompt for each."""
        if len(images) != len(prompts):
            raise TgoError(f"{len(images)} images and {len(prompts)} prompts: give one prompt per image.")
        pixels = self.preprocessing.differentiable(images.to(self.device))
        return self.forward(pixels, self.tokenize(prompts).to(self.device))

    @abstractmethod
    def official_state_dict(self) -> dict[str, Tensor]:
        """The weights under the keys of the official checkpoint."""

    @abstractmethod
    def save(self, folder: Path, metadata: dict[str, str] | None = None) -> None:
        """Write the folder that `load_reward` reads, in the official layout; `metadata` goes into the weight file."""


def empty(build: Callable[[], Any]) -> Any:
    """Call `build` with parameters that take no memory and no time, for weights that are assigned afterwards."""
    from accelerate import init_empty_weights

    with init_empty_weights():
        return build()


def cosine(images: Tensor, prompts: Tensor) -> Tensor:
    """Row-wise product of embeddings of unit length: (B, D), (B, D) -> (B,)."""
    return (images * prompts).sum(-1)
