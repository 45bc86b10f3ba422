"""Hugging Face CLIP checkpoints: configuration, weights, the shared image tower, and a reward made of both towers."""

from __future__ import annotations

import math
from abc import abstractmethod
from pathlib import Path
from typing import Any, Self, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import (
    CLIPConfig,
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPVisionConfig,
    CLIPVisionModelWithProjection,
)
from transformers.activations import QuickGELUActivation

from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub.checkpoint import described_by, load_weights, read_weights, write_weights
from tgo_pipeline.hub.json_files import read_json
from tgo_pipeline.rewards.base import NetworkReward, cosine, empty
from tgo_pipeline.rewards.files.layouts import Files
from tgo_pipeline.rewards.networks.attention import ClipAttention, class_token
from tgo_pipeline.rewards.networks.feed_forward import QuickGeluMlp
from tgo_pipeline.rewards.networks.precision import Precision, autocast
from tgo_pipeline.rewards.networks.preprocessing import ShortestSideCrop

VISION_KEYS = ("vision_model.", "visual_projection.")
TEXT_KEYS = ("text_model.", "text_projection.")
INITIAL_LOGIT_SCALE = math.log(1 / 0.07)  # where CLIP's temperature starts (Radford et al. 2021)


def read_clip_config(path: Path) -> CLIPConfig:
    """The configuration of a whole CLIP model. Raises `TgoError` if the file describes anything else."""
    raw = read_json(path)
    if "vision_config" not in raw or "text_config" not in raw:
        raise TgoError(f"{path} describes {raw.get('model_type', 'no model')!r}, expected a whole CLIPModel.")
    with described_by(path):
        return CLIPConfig(**raw)


def read_vision_config(path: Path) -> CLIPVisionConfig:
    """The configuration of a CLIP model's image tower, or of a tower on its own. Raises `TgoError` for another."""
    raw = read_json(path)
    if "vision_config" in raw:
        return vision_config(read_clip_config(path))
    if raw.get("model_type") != "clip_vision_model":
        raise TgoError(
            f"{path} describes {raw.get('model_type', 'no model')!r}, expected CLIP or its image tower."
        )
    with described_by(path):
        return CLIPVisionConfig(**raw)


def vision_config(config: CLIPConfig) -> CLIPVisionConfig:
    """The image tower's part of a CLIP configuration, with the width of the common projection."""
    return CLIPVisionConfig(**_part(config.vision_config, config))


def text_config(config: CLIPConfig) -> CLIPTextConfig:
    """The text tower's part of a CLIP configuration, with the width of the common projection."""
    return CLIPTextConfig(**_part(config.text_config, config))


def _part(part: Any, config: CLIPConfig) -> dict[str, Any]:
    return {**part.to_dict(), "projection_dim": config.projection_dim}


def read_clip_weights(path: Path) -> dict[str, Tensor]:
    """The weights of a CLIP checkpoint without the position ids that old ones store."""
    return {key: value for key, value in read_weights(path).items() if not key.endswith(".position_ids")}


class ClipTower(nn.Module):
    """CLIP's image tower with its projection. Rewards that have the same weights share one object."""

    def __init__(self, config: CLIPVisionConfig) -> None:
        super().__init__()
        self.config = config
        self.model = CLIPVisionModelWithProjection(config)
        _use_own_modules(self.blocks, causal=False)

    @property
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks."""
        return self.model.vision_model.encoder.layers

    @property
    def preprocessing(self) -> ShortestSideCrop:
        """How images are prepared for this tower."""
        return ShortestSideCrop(cast(int, self.config.image_size))

    def forward(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> embeddings of unit length (B, D). The last block computes the class token alone."""
        vision = self.model.vision_model
        hidden = vision.pre_layrnorm(vision.embeddings(pixels))
        *earlier, last = cast(Any, self.blocks)
        with autocast(self.blocks, pixels.device):
            for block in earlier:
                hidden = block(hidden, None)
            token = class_token(hidden, last.layer_norm1, last.self_attn, last.layer_norm2, last.mlp)
        pooled = vision.post_layernorm(token[:, 0].float())
        return normalize(self.model.visual_projection(pooled), dim=-1)

    def equals(self, other: ClipTower) -> bool:
        """Whether both have the same configuration and bit-identical weights, in one precision and on one device."""
        if self.config.to_dict() != other.config.to_dict():
            return False
        theirs = other.state_dict()
        return all(_equal(value, theirs[key]) for key, value in self.state_dict().items())


class ClipReward(NetworkReward):
    """A reward from the cosine of a CLIP model's two towers, which are kept apart so that one can be shared."""

    def __init__(self, name: str, scale: str, config: CLIPConfig) -> None:
        tower, text = ClipTower(vision_config(config)), CLIPTextModelWithProjection(text_config(config))
        super().__init__(name, scale, tower.preprocessing)
        self.config = config
        self.tower = tower
        self.text = text
        _use_own_modules(self._text_blocks, causal=True)
        initial = config.logit_scale_init_value
        self.logit_scale = nn.Parameter(
            torch.tensor(INITIAL_LOGIT_SCALE if initial is None else float(initial))
        )

    @classmethod
    @abstractmethod
    def from_config(cls, config: CLIPConfig, files: Files) -> Self:
        """The reward with its tokenizer from `files` and no weights yet."""

    @classmethod
    def load(cls, name: str, files: Files, precision: Precision = "fp32") -> Self:
        """Build from files. Raises `TgoError` if configuration, weights and vocabulary do not fit together."""
        path = files.path("config.json")
        config = read_clip_config(path)
        with described_by(path):
            reward = empty(lambda: cls.from_config(config, files)).set_precision(precision)
        state = {_own_key(key): value for key, value in read_clip_weights(files.weights).items()}
        load_weights(reward, state, files.weights)
        reward.name = name
        return reward

    @property
    def image_encoder(self) -> object:
        return self.tower

    @property
    def towers(self) -> list[nn.ModuleList]:
        return [self.tower.blocks, self._text_blocks]

    @property
    def _text_blocks(self) -> nn.ModuleList:
        return self.text.text_model.encoder.layers

    def encode_images(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> embeddings of unit length (B, D)."""
        return self.tower(pixels)

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """(B, L) -> embeddings of unit length (B, D). The tower is causal, so padding needs no mask."""
        text = self.text.text_model
        hidden = text.embeddings(input_ids=tokens)
        with autocast(self._text_blocks, tokens.device):
            for block in self._text_blocks:
                hidden = block(hidden, None)
        rows, ends = torch.arange(len(tokens), device=tokens.device), self.token_counts(tokens) - 1
        pooled = text.final_layer_norm(hidden[rows, ends].float())
        return normalize(self.text.text_projection(pooled), dim=-1)

    def token_counts(self, tokens: Tensor) -> Tensor:
        """Places of the first end token, plus one. Old checkpoints say that it is 2, and mean the highest id."""
        end = self.text.config.eos_token_id
        return (tokens if end == 2 else tokens.eq(cast(int, end)).int()).argmax(-1) + 1

    def combine(self, images: Tensor, prompts: Tensor) -> Tensor:
        return cosine(images, prompts)

    def official_state_dict(self) -> dict[str, Tensor]:
        """The weights under the keys of a Hugging Face CLIPModel."""
        prefixed = self.state_dict().items()
        return {key.removeprefix("tower.model.").removeprefix("text."): value for key, value in prefixed}

    def save(self, folder: Path, metadata: dict[str, str] | None = None) -> None:
        """A Hugging Face CLIPModel with its configuration and tokenizer."""
        write_weights(folder / "model.safetensors", self.official_state_dict(), metadata)
        self.config.save_pretrained(folder)
        self.save_tokenizer(folder)

    @abstractmethod
    def save_tokenizer(self, folder: Path) -> None:
        """Write the files that `from_config` makes the tokenizer of."""


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.dtype == other.dtype and one.device == other.device and torch.equal(one, other)


def _use_own_modules(blocks: nn.ModuleList, causal: bool) -> None:
    for block in cast(Any, blocks):
        block.self_attn = ClipAttention(block.self_attn, causal)
        if isinstance(block.mlp.activation_fn, QuickGELUActivation):
            block.mlp = QuickGeluMlp(block.mlp)


def _own_key(key: str) -> str:
    if key.startswith(VISION_KEYS):
        return f"tower.model.{key}"
    return f"text.{key}" if key.startswith(TEXT_KEYS) else key
