"""What a policy is: how one family of models encodes, corrupts, and scores a sample, and what its reference is.

Tensors that belong together travel as named dictionaries with the batch as first dimension, so that a family may
have several (latents; text embeddings and pooled embeddings; tokens and masks).
"""

from __future__ import annotations

import abc
import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

if TYPE_CHECKING:
    import torch
    from PIL.Image import Image
    from torch import Tensor

    from tgo_pipeline.params import FineTuneParams

Corruption = TypeVar("Corruption")
ENCODING_PARTS = ("vae", "text_encoder")
"""Pipeline components that only the encoder needs: a training run with a complete cache does not load them."""


class Encoder(Protocol):
    """Turns images and prompts into the tensors that the policy trains on; needs the `ENCODING_PARTS`."""

    def images(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """Encode N RGB images to named float32 CPU tensors of N rows."""
        ...

    def prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """Encode N prompts to named float32 CPU tensors of N rows."""
        ...


class Policy(abc.ABC, Generic[Corruption]):
    """A model being trained beside its frozen reference."""

    network: torch.nn.Module
    """The network being trained, adapters attached."""

    @classmethod
    @abc.abstractmethod
    def encoder(cls, pipeline: Any, size: tuple[int | None, int | None]) -> Encoder:
        """The encoder of a whole pipeline; `size` is (width, height) in pixels, None the model's own."""

    @classmethod
    @abc.abstractmethod
    def build(cls, pipeline: Any, params: FineTuneParams, *, seed: int, with_reference: bool) -> Policy:
        """Prepare a pipeline's network for training. Raises `TgoError` for a network that does not fit."""

    @abc.abstractmethod
    def corrupt(
        self, images: Mapping[str, Tensor], conditions: Mapping[str, Tensor], seeds: Sequence[int]
    ) -> Corruption:
        """Draw what the model has to undo (timestep and noise, or a mask), sample i from `seeds[i]` alone.

        Policy and reference are given the same corruption.
        """

    @abc.abstractmethod
    def log_likelihood(self, corruption: Corruption) -> Tensor:
        """(B,) float32 log-likelihoods of the active network, up to a constant."""

    @contextlib.contextmanager
    @abc.abstractmethod
    def reference(self) -> Iterator[None]:
        """While it lasts, the frozen reference is the active network and no gradient is recorded."""

    @abc.abstractmethod
    def save_memory(self) -> None:
        """From now on recompute activations in the backward pass (gradient checkpointing)."""

    @abc.abstractmethod
    def save(self, folder: Path, pipeline: Any) -> None:
        """Write the result for `diffusers`: into `pipeline`'s folder layout, or as an adapter."""

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """The trained parameters by name."""
        return {name: p for name, p in self.network.named_parameters() if p.requires_grad}
