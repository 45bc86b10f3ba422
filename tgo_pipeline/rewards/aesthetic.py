"""LAION's aesthetic predictors: a small head on the unit embedding of a CLIP image tower; no prompt.

Folder: `model.safetensors` or the official `sac+logos+ava1-l14-linearMSE.pth`, and `clip/` with a Hugging Face
CLIPModel or its image tower. Another of LAION's heads is named by its file; its keys tell its layers (`head.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig

from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub.checkpoint import described_by, load_weights, read_weights, write_weights
from tgo_pipeline.rewards.base import NetworkReward, empty
from tgo_pipeline.rewards.files.layouts import Files
from tgo_pipeline.rewards.networks.clip_models import (
    VISION_KEYS,
    ClipTower,
    read_clip_weights,
    read_vision_config,
)
from tgo_pipeline.rewards.networks.head import WIDTHS, AffineHead, Head, LinearHead, ReluHead, head_of
from tgo_pipeline.rewards.networks.precision import Precision

VERSIONS: dict[type[Head], str] = {LinearHead: "v2", ReluHead: "v2 with ReLU", AffineHead: "v1"}
"""What LAION's predictors with each kind of head are called."""


class Aesthetic(NetworkReward):
    """A CLIP image tower and a head; the prompt plays no part."""

    needs_prompt = False

    def __init__(
        self, config: CLIPVisionConfig, widths: Sequence[int] = WIDTHS, kind: type[Head] = LinearHead
    ) -> None:
        tower = ClipTower(config)
        super().__init__(
            "aesthetic",
            f"LAION aesthetic predictor {VERSIONS[kind]}: points from 1 to 10",
            tower.preprocessing,
        )
        self.tower = tower
        self.head = kind(widths)
        self.typical_range = (4.5, 6.8) if kind is LinearHead else None

    @classmethod
    def load(cls, name: str, files: Files, precision: Precision = "fp32") -> Aesthetic:
        """Build from files. Raises `TgoError` if head, tower and configuration do not fit together."""
        path = files.path("clip/config.json")
        config = read_vision_config(path)
        state = read_weights(files.weights)
        found = head_of(state)
        if found is None:
            raise TgoError(
                f"{files.weights} is not an aesthetic head: it lacks some of layers.{{0,2,4,6,7}}.weight, and it is "
                "neither one with ReLU nor a single layer."
            )
        kind, widths = found
        if widths[0] != config.projection_dim:
            raise TgoError(
                f"{files.weights} expects embeddings of width {widths[0]}, "
                f"the tower in clip/ gives {config.projection_dim}."
            )
        with described_by(path):
            reward = empty(lambda: cls(config, widths, kind)).set_precision(precision)
        load_weights(reward.head, state, files.weights)
        tower_path = files.path("clip/model.safetensors")
        tower = {k: v for k, v in read_clip_weights(tower_path).items() if k.startswith(VISION_KEYS)}
        load_weights(reward.tower.model, tower, tower_path)
        return reward

    @property
    def image_encoder(self) -> object:
        return self.tower

    @property
    def towers(self) -> list[nn.ModuleList]:
        return [self.tower.blocks]

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """No tokens, (B, 0): the prompt plays no part."""
        return torch.empty(len(prompts), 0, dtype=torch.long)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> embeddings of unit length (B, D)."""
        return self.tower(pixels)

    def combine(self, images: Tensor, prompts: Tensor) -> Tensor:
        return self.head(images)

    def official_state_dict(self) -> dict[str, Tensor]:
        """The head alone, as the official file has it."""
        return dict(self.head.state_dict())

    def save(self, folder: Path, metadata: dict[str, str] | None = None) -> None:
        """The head as LAION's file has it, and its CLIP tower in `clip/`."""
        write_weights(folder / "model.safetensors", self.official_state_dict(), metadata)
        write_weights(folder / "clip/model.safetensors", self.tower.model.state_dict(), metadata)
        self.tower.config.save_pretrained(folder / "clip")
