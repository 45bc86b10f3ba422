"""CLIP score, variant `openai-l14`: the raw cosine of OpenAI's ViT-L/14, neither scaled nor clamped.

Folder: a Hugging Face CLIPModel (`config.json`, `model.safetensors`) and `merges.txt` (without it CLIP's own
vocabulary). Prompts are tokenised as OpenAI's `clip.tokenize(truncate=True)` does.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPTextConfig, CLIPTextModelWithProjection

from tgo_pipeline.rewards.base import NetworkReward, cosine, empty
from tgo_pipeline.rewards.checkpoint import load_weights, write_weights
from tgo_pipeline.rewards.clip_models import ClipTower, read_clip_config, read_clip_weights, vision_config
from tgo_pipeline.rewards.layouts import Files
from tgo_pipeline.rewards.preprocessing import ShortestSideCrop
from tgo_pipeline.rewards.tokenizers import OpenClipTokenizer, check_vocabulary, clip_vocabulary, read_merges


class ClipScore(NetworkReward):
    """The two towers of a CLIPModel, kept apart so that the image tower can be shared with the aesthetic reward.

    `logit_scale` belongs to the checkpoint and to training; the score does not use it.
    """

    def __init__(self, config: CLIPConfig, tokenizer: OpenClipTokenizer) -> None:
        super().__init__("clip", "raw cosine", ShortestSideCrop(config.vision_config.image_size))
        text = {**config.text_config.to_dict(), "projection_dim": config.projection_dim}
        self.config = config
        self.tokenizer = tokenizer
        self.tower = ClipTower(vision_config(config))
        self.text = CLIPTextModelWithProjection(CLIPTextConfig(**text))
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale_init_value or math.log(1 / 0.07)))

    @classmethod
    def load(cls, name: str, files: Files) -> ClipScore:
        """Build from a folder. Raises `TgoError` if configuration, weights and vocabulary do not fit together."""
        config = read_clip_config(files.folder / "config.json")
        tokenizer = OpenClipTokenizer(
            read_merges(files.optional("merges.txt")), config.text_config.max_position_embeddings
        )
        check_vocabulary(name, tokenizer.vocabulary_size, config.text_config.vocab_size)
        reward = empty(lambda: cls(config, tokenizer))
        state = {_own_key(key): value for key, value in read_clip_weights(files.weights).items()}
        load_weights(reward, state, files.weights)
        return reward

    @property
    def image_encoder(self) -> object:
        return self.tower

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        return self.tokenizer(prompts)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> embeddings of unit length (B, D)."""
        return self.tower(pixels)

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """(B, L) -> embeddings of unit length (B, D). The tower is causal, so padding needs no mask."""
        return normalize(self.text(input_ids=tokens).text_embeds, dim=-1)

    def combine(self, images: Tensor, prompts: Tensor) -> Tensor:
        return cosine(images, prompts)

    def official_state_dict(self) -> dict[str, Tensor]:
        """The keys of a Hugging Face CLIPModel."""
        return {
            key.removeprefix("tower.model.").removeprefix("text."): v for key, v in self.state_dict().items()
        }

    def save(self, folder: Path, metadata: dict[str, str] | None = None) -> None:
        write_weights(folder / "model.safetensors", self.official_state_dict(), metadata)
        self.config.save_pretrained(folder)
        self.tokenizer.save(folder)
        vocabulary = clip_vocabulary(self.tokenizer.merges)
        (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")


def _own_key(key: str) -> str:
    if key.startswith(("vision_model.", "visual_projection.")):
        return f"tower.model.{key}"
    return f"text.{key}" if key.startswith(("text_model.", "text_projection.")) else key
