"""PickScore v1: CLIP ViT-H-14 fine-tuned on Pick-a-Pic choices, exp(logit scale) times the cosine (arXiv:2305.01569).

Folder: a Hugging Face CLIPModel (`config.json`, `model.safetensors`) and the tokenizer files of
laion/CLIP-ViT-H-14-laion2B-s32B-b79K; without tokenizer files CLIP's own vocabulary, which is the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from torch import Tensor
from torch.nn.functional import normalize
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from tgo_pipeline.rewards.base import NetworkReward, cosine, empty
from tgo_pipeline.rewards.checkpoint import load_weights, write_weights
from tgo_pipeline.rewards.clip_models import read_clip_config, read_clip_weights
from tgo_pipeline.rewards.layouts import Files
from tgo_pipeline.rewards.preprocessing import ShortestSideCrop
from tgo_pipeline.rewards.tokenizers import check_vocabulary, hugging_face_tokenizer


class PickScore(NetworkReward):
    """A CLIPModel whose scaled cosine is the score, about 17 to 24 for the official weights."""

    def __init__(self, config: CLIPConfig, tokenizer: CLIPTokenizer) -> None:
        super().__init__(
            "pickscore", "exp(logit scale) times cosine", ShortestSideCrop(config.vision_config.image_size)
        )
        self.tokenizer = tokenizer
        self.clip = CLIPModel(config)

    @classmethod
    def load(cls, name: str, files: Files) -> PickScore:
        """Build from a folder. Raises `TgoError` if configuration, weights and tokenizer do not fit together."""
        config = read_clip_config(files.folder / "config.json")
        tokenizer = _tokenizer(files, config.text_config.max_position_embeddings)
        check_vocabulary(name, len(tokenizer), config.text_config.vocab_size)
        reward = empty(lambda: cls(config, tokenizer))
        load_weights(reward.clip, read_clip_weights(files.weights), files.weights)
        return reward

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        length = self.clip.config.text_config.max_position_embeddings
        return self.tokenizer(
            list(prompts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )["input_ids"]

    def encode_images(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> embeddings of unit length (B, D)."""
        return normalize(self.clip.get_image_features(pixel_values=pixels).pooler_output, dim=-1)

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """(B, L) -> embeddings of unit length (B, D). The tower is causal, so padding needs no mask."""
        return normalize(self.clip.get_text_features(input_ids=tokens).pooler_output, dim=-1)

    def combine(self, images: Tensor, prompts: Tensor) -> Tensor:
        return self.clip.logit_scale.exp() * cosine(images, prompts)

    def official_state_dict(self) -> dict[str, Tensor]:
        return dict(self.clip.state_dict())

    def save(self, folder: Path, metadata: dict[str, str] | None = None) -> None:
        write_weights(folder / "model.safetensors", self.official_state_dict(), metadata)
        self.clip.config.save_pretrained(folder)
        self.tokenizer.save_pretrained(folder)


def _tokenizer(files: Files, context_length: int) -> CLIPTokenizer:
    if files.optional("tokenizer.json") or (files.optional("vocab.json") and files.optional("merges.txt")):
        return CLIPTokenizer.from_pretrained(files.folder)
    return hugging_face_tokenizer(context_length=context_length)
