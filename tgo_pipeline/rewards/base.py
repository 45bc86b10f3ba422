"""The reward seam: a picture and a prompt in, one number out.

A reward is split so that work can be shared: pictures are prepared once per `preprocessing`, encoded once per
`image_encoder`, prompts are encoded once each, and `combine` makes scores of the two.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.layouts import Files


class Preparation(Hashable, Protocol):
    """A hashable callable from an RGB picture to a tensor (3, S, S); equal ones give equal tensors."""

    def __call__(self, image: Image.Image) -> Tensor: ...


class Reward(nn.Module, ABC):
    """What every reward offers; `name` is its key and `scale` says in words what its numbers mean."""

    def __init__(self, name: str, scale: str, preprocessing: Preparation) -> None:
        super().__init__()
        self.name = name
        self.scale = scale
        self.preprocessing = preprocessing

    @classmethod
    @abstractmethod
    def load(cls, name: str, files: Files) -> Reward:
        """Build the reward from located files. Raises `TgoError` if they do not fit together."""

    @property
    def device(self) -> torch.device:
        """Where the network is; the CPU if the reward has none."""
        return next((parameter.device for parameter in self.parameters()), torch.device("cpu"))

    @property
    def image_encoder(self) -> object:
        """The object whose identity says that two rewards have the same `encode_images`."""
        return self

    def prepare(self, image: Image.Image) -> Tensor:
        """RGB picture to float32 (3, S, S); cheap, runs in worker threads or processes."""
        return self.preprocessing(image)

    @abstractmethod
    def encode_images(self, pixels: Tensor) -> Tensor:
        """Prepared pictures (B, 3, S, S) to whatever `combine` needs of them, (B, ...)."""

    @abstractmethod
    def encode_prompts(self, prompts: Sequence[str]) -> Any:
        """Prompts to what `combine` needs of them: a tensor or array whose first axis is the prompt."""

    @abstractmethod
    def combine(self, images: Tensor, prompts: Any) -> Tensor:
        """Encoded pictures and as many encoded prompts to scores (B,)."""

    def score(
        self, images: Sequence[Image.Image], prompts: Sequence[str], batch_size: int = 64
    ) -> np.ndarray:
        """Score pairs of picture and prompt: float32 (N,), in the units that `scale` names.

        Raises `TgoError` if there are not as many prompts as pictures, or a picture cannot be read.
        """
        from tgo_pipeline.rewards.scorer import Scorer

        scores = Scorer({self.name: self}, batch_size=batch_size).score(images, prompts)
        for row, reason in scores.errors.items():
            raise TgoError(f"image {row} of {len(images)} cannot be read: {reason}.")
        return scores.columns[self.name]


class NetworkReward(Reward):
    """A reward that is a network: differentiable `forward(pixels, tokens)`, and a way back to official files."""

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
