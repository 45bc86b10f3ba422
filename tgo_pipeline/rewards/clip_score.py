"""CLIP score, variant `openai-l14`: the raw cosine of OpenAI's ViT-L/14, neither scaled nor clamped.

Folder: a Hugging Face CLIPModel (`config.json`, `model.safetensors`) and `merges.txt` (without it CLIP's own
vocabulary). Prompts are tokenised as OpenAI's `clip.tokenize(truncate=True)` does.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from torch import Tensor
from transformers import CLIPConfig

from tgo_pipeline.rewards.files.layouts import Files
from tgo_pipeline.rewards.networks.clip_models import ClipReward, text_config
from tgo_pipeline.rewards.networks.tokenizers import (
    OPENAI,
    OpenClipTokenizer,
    check_vocabulary,
    clip_vocabulary,
    read_merges,
)


class ClipScore(ClipReward):
    """The cosine of a CLIPModel; its `logit_scale` belongs to training and plays no part."""

    typical_range = (0.15, 0.35)

    def __init__(self, config: CLIPConfig, tokenizer: OpenClipTokenizer) -> None:
        super().__init__("clip", "CLIP score, openai-l14: raw cosine, neither scaled nor clamped", config)
        self.tokenizer = tokenizer

    @classmethod
    def from_config(cls, config: CLIPConfig, files: Files) -> Self:
        """The network of `config` with the tokenizer of `files`. Raises `TgoError` if the two do not fit."""
        text = text_config(config)
        merges = read_merges(files.optional("merges.txt"))
        tokenizer = OpenClipTokenizer(merges, text.max_position_embeddings, OPENAI)
        check_vocabulary("clip/openai-l14", tokenizer.vocabulary_size, text.vocab_size)
        return cls(config, tokenizer)

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        """Token ids, int64 (B, L), as OpenAI's `clip.tokenize(truncate=True)` gives them."""
        return self.tokenizer(prompts)

    def save_tokenizer(self, folder: Path) -> None:
        """Write `merges.txt` as read here, and `vocab.json` so that Hugging Face's tokenizer loads too."""
        self.tokenizer.save(folder)
        vocabulary = clip_vocabulary(self.tokenizer.merges)
        (folder / "vocab.json").write_text(json.dumps(vocabulary, ensure_ascii=False), encoding="utf-8")
