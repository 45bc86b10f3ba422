"""Parts of a Hugging Face CLIP checkpoint: its configuration, its weights, and the shared image tower."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPVisionConfig, CLIPVisionModelWithProjection

from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.checkpoint import read_json, read_weights

VISION_KEYS = ("vision_model.", "visual_projection.")


def read_clip_config(path: Path) -> CLIPConfig:
    """The configuration of a whole CLIP model. Raises `TgoError` if the file describes anything else."""
    raw = read_json(path)
    if "vision_config" not in raw or "text_config" not in raw:
        raise TgoError(f"{path} describes {raw.get('model_type', 'no model')!r}, expected a whole CLIPModel.")
    return CLIPConfig(**raw)


def read_vision_config(path: Path) -> CLIPVisionConfig:
    """The configuration of the image tower of a CLIP model, or of a tower on its own, with its projection's width."""
    raw = read_json(path)
    if "vision_config" in raw:
        return vision_config(CLIPConfig(**raw))
    if raw.get("model_type") != "clip_vision_model":
        raise TgoError(
            f"{path} describes {raw.get('model_type', 'no model')!r}, expected CLIP or its image tower."
        )
    return CLIPVisionConfig(**raw)


def vision_config(config: CLIPConfig) -> CLIPVisionConfig:
    """The image tower's part of a CLIP configuration, with the width of the common projection."""
    return CLIPVisionConfig(**{**config.vision_config.to_dict(), "projection_dim": config.projection_dim})


def read_clip_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a CLIP checkpoint without the position ids that old ones store."""
    return {key: value for key, value in read_weights(path).items() if not key.endswith(".position_ids")}


class ClipTower(nn.Module):
    """CLIP's image tower with its projection. Rewards that have the same weights share one object."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.model = CLIPVisionModelWithProjection(config)

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> embeddings of unit length (B, D)."""
        return normalize(self.model(pixel_values=pixels).image_embeds, dim=-1)

    def equals(self, other: ClipTower) -> bool:
        """Whether both have the same configuration and bit-identical weights."""
        if self.config.to_dict() != other.config.to_dict():
            return False
        theirs = other.state_dict()
        return all(torch.equal(value, theirs[key]) for key, value in self.state_dict().items())
