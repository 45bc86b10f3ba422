"""HPSv2.0 and HPSv2.1: the cosine of an open_clip ViT-H-14 fine-tuned on human choices (arXiv:2306.09341).

Folder: `model.safetensors` (open_clip keys) or the official `HPS_v2.1_compressed.pt` / `HPS_v2_compressed.pt`;
`open_clip_config.json` ({"model_cfg": ...}; without it ViT-H-14) and `merges.txt` (without it CLIP's vocabulary).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.base import NetworkReward, cosine, empty
from tgo_pipeline.rewards.checkpoint import (
    described_by,
    load_weights,
    read_json,
    read_weights,
    write_json,
    write_weights,
)
from tgo_pipeline.rewards.layouts import Files
from tgo_pipeline.rewards.preprocessing import LongestSidePad
from tgo_pipeline.rewards.tokenizers import OpenClipTokenizer, check_vocabulary, read_merges

CONFIG = "open_clip_config.json"


class HPSv2(NetworkReward):
    """`config` is open_clip's `model_cfg` (embed_dim, vision_cfg, text_cfg); both versions are the same network."""

    def __init__(
        self, config: Mapping[str, Any], tokenizer: OpenClipTokenizer, name: str = "hpsv2.1"
    ) -> None:
        from open_clip.model import CLIP

        super().__init__(name, "cosine, no logit scale", LongestSidePad(config["vision_cfg"]["image_size"]))
        self.config = dict(config)
        self.tokenizer = tokenizer
        self.clip = CLIP(**config)

    @classmethod
    def load(cls, name: str, files: Files) -> HPSv2:
        """Build from a folder. Raises `TgoError` if configuration, weights and vocabulary do not fit together."""
        config = _config(files.optional(CONFIG))
        tokenizer = OpenClipTokenizer(
            read_merges(files.optional("merges.txt")), config["text_cfg"]["context_length"]
        )
        check_vocabulary(name, tokenizer.vocabulary_size, config["text_cfg"]["vocab_size"])
        with described_by(files.folder / CONFIG):
            reward = empty(lambda: cls(config, tokenizer, name))
        load_weights(reward.clip, read_weights(files.weights), files.weights)
        return reward

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        return self.tokenizer(prompts)

    def encode_images(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> embeddings of unit length (B, D)."""
        return self.clip.encode_image(pixels, normalize=True)

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """(B, L) -> embeddings of unit length (B, D)."""
        return self.clip.encode_text(tokens, normalize=True)

    def combine(self, images: Tensor, prompts: Tensor) -> Tensor:
        return cosine(images, prompts)

    def official_state_dict(self) -> dict[str, Tensor]:
        return dict(self.clip.state_dict())

    def save(self, folder: Path, metadata: dict[str, str] | None = None) -> None:
        """The weights, `open_clip_config.json` and the vocabulary."""
        write_weights(folder / "model.safetensors", self.official_state_dict(), metadata)
        write_json(folder / CONFIG, {"model_cfg": self.config})
        self.tokenizer.save(folder)


def _config(path: Path | None) -> dict[str, Any]:
    """open_clip's `model_cfg` with the keys that this reward reads filled in; ViT-H-14 (GELU) without a file."""
    from open_clip import get_model_config

    if path is None:
        return dict(get_model_config("ViT-H-14") or {})
    raw = read_json(path)
    config = raw.get("model_cfg", raw)
    if not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
        raise TgoError(f"{path} must hold embed_dim, vision_cfg and text_cfg, as open_clip writes it.")
    defaults = {"context_length": 77, "vocab_size": 49408}
    return {
        **config,
        "vision_cfg": {"image_size": 224, **config["vision_cfg"]},
        "text_cfg": {**defaults, **config["text_cfg"]},
    }
