"""PickScore v1: CLIP ViT-H-14 fine-tuned on Pick-a-Pic choices, exp(logit scale) times the cosine (arXiv:2305.01569).

Folder: a Hugging Face CLIPModel (`config.json`, `model.safetensors`) and the tokenizer files of
laion/CLIP-ViT-H-14-laion2B-s32B-b79K; without tokenizer files CLIP's own vocabulary, which is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Self

from torch import Tensor
from transformers import CLIPConfig, CLIPTokenizer

from tgo_pipeline.rewards.files.layouts import Files
from tgo_pipeline.rewards.networks.clip_models import ClipReward, text_config
from tgo_pipeline.rewards.networks.preprocessing import ShortestSideCrop
from tgo_pipeline.rewards.networks.tokenizers import (
    check_vocabulary,
    hugging_face_tokenizer,
    published_ends,
    well_formed,
)


class PickScore(ClipReward):
    """A CLIPModel whose scaled cosine is the score."""

    typical_range = (17.0, 24.0)

    def __init__(self, config: CLIPConfig, tokenizer: CLIPTokenizer) -> None:
        super().__init__("pickscore", "PickScore v1: exp(logit scale) times cosine, about 100 times", config)
        self.preprocessing = ShortestSideCrop(self.tower.preprocessing.size, rounding="down")
        self.tokenizer = tokenizer
        self.context_length = text_config(config).max_position_embeddings

    @classmethod
    def from_config(cls, config: CLIPConfig, files: Files) -> Self:
        """The network of `config` with the tokenizer of `files`. Raises `TgoError` if the two do not fit."""
        text = text_config(config)
        tokenizer = _tokenizer(files, text.max_position_embeddings)
        check_vocabulary("pickscore", len(tokenizer), text.vocab_size)
        return cls(config, tokenizer)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids, int64 (B, L), padded and truncated to the text network's length L."""
        return self.tokenizer(
            well_formed(prompts),
            padding="max_length",
            truncation=True,
            max_length=self.context_length,
            return_tensors="pt",
        )["input_ids"]

    def combine(self, images: Tensor, prompts: Tensor) -> Tensor:
        return self.logit_scale.exp() * super().combine(images, prompts)

    def save_tokenizer(self, folder: Path) -> None:
        self.tokenizer.save_pretrained(folder)


def _tokenizer(files: Files, context_length: int) -> CLIPTokenizer:
    whole, vocabulary = files.optional("tokenizer.json"), files.optional("vocab.json")
    if path := whole or (vocabulary if files.optional("merges.txt") else None):
        return CLIPTokenizer.from_pretrained(path.parent, **published_ends())
    return hugging_face_tokenizer(context_length=context_length)
