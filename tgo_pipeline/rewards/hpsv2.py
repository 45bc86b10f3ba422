"""HPSv2.0 and HPSv2.1: the cosine of an open_clip ViT-H-14 fine-tuned on human choices (arXiv:2306.09341).

Folder: `model.safetensors` (open_clip keys) or the official `HPS_v2.1_compressed.pt` / `HPS_v2_compressed.pt`;
`open_clip_config.json` ({"model_cfg": ...}; without it ViT-H-14) and `merges.txt` (without it CLIP's vocabulary).
LAION's ViT-H-14, from which both were fine-tuned, gives the CLIP score of Diffusion-DPO with the same code.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub.checkpoint import (
    described_by,
    load_weights,
    read_weights,
    write_json,
    write_weights,
)
from tgo_pipeline.hub.json_files import read_json
from tgo_pipeline.rewards.base import NetworkReward, cosine, empty
from tgo_pipeline.rewards.files.layouts import Files
from tgo_pipeline.rewards.networks.attention import OpenClipAttention, class_token
from tgo_pipeline.rewards.networks.precision import Precision, autocast
from tgo_pipeline.rewards.networks.preprocessing import LongestSidePad
from tgo_pipeline.rewards.networks.tokenizers import OpenClipTokenizer, check_vocabulary, read_merges

CONFIG = "open_clip_config.json"
SCALES = {
    "hpsv2.1": ("HPSv2.1: raw cosine, no logit scale", (0.14, 0.33)),
    "hpsv2.0": ("HPSv2.0: raw cosine, no logit scale", (0.23, 0.285)),
    "clip/laion-h14-hpspad": ("CLIP score, laion-h14 with the padding of HPSv2: raw cosine", (0.15, 0.35)),
}
"""What the numbers are, and where those of usual images lie (docs/REWARDS.md)."""
_SIZES = {
    "vision_cfg": {"image_size", "layers", "width", "head_width", "mlp_ratio", "patch_size"},
    "text_cfg": {"context_length", "vocab_size", "width", "heads", "layers", "mlp_ratio"},
}


class HPSv2(NetworkReward):
    """`config` is open_clip's `model_cfg` (embed_dim, vision_cfg, text_cfg); `name` one of `SCALES`."""

    def __init__(
        self, config: Mapping[str, Any], tokenizer: OpenClipTokenizer, name: str = "hpsv2.1"
    ) -> None:
        from open_clip.model import CLIP

        scale, typical_range = SCALES[name]
        super().__init__(name, scale, LongestSidePad(config["vision_cfg"]["image_size"]))
        self.typical_range = typical_range
        self.config = dict(config)
        self.tokenizer = tokenizer
        self.clip = CLIP(**config)
        for blocks, causal in zip(self.towers, (False, True), strict=True):
            for block in cast(Any, blocks):
                block.attn = OpenClipAttention(block.attn, causal)

    @classmethod
    def load(cls, name: str, files: Files, precision: Precision = "fp32") -> HPSv2:
        """Build from files. Raises `TgoError` if configuration, weights and vocabulary do not fit together."""
        path = files.optional(CONFIG)
        config = network_config(path)
        text = config["text_cfg"]
        tokenizer = OpenClipTokenizer(read_merges(files.optional("merges.txt")), text["context_length"])
        check_vocabulary(name, tokenizer.vocabulary_size, text["vocab_size"])
        with described_by(path or files.weights):
            reward = empty(lambda: cls(config, tokenizer, name)).set_precision(precision)
        load_weights(reward.clip, read_weights(files.weights), files.weights)
        return reward

    @property
    def towers(self) -> list[nn.ModuleList]:
        clip = cast(Any, self.clip)
        return [clip.visual.transformer.resblocks, clip.transformer.resblocks]

    def tokenize(self, prompts: Sequence[str]) -> Tensor:
        return self.tokenizer(prompts)

    def token_counts(self, tokens: Tensor) -> Tensor:
        """Places of the end token, which has the highest id, plus one."""
        return tokens.argmax(-1) + 1

    def encode_images(self, pixels: Tensor) -> Tensor:
        """(B, 3, S, S) -> embeddings of unit length (B, D). The last block computes the class token alone."""
        visual = cast(Any, self.clip.visual)
        hidden = _patches(visual, pixels)
        blocks = self.towers[0]
        *earlier, last = cast(Any, blocks)
        with autocast(blocks, pixels.device):
            for block in earlier:
                hidden = block(hidden)
            token = class_token(hidden, last.ln_1, last.attn, last.ln_2, last.mlp)
        return normalize(visual.ln_post(token[:, 0].float()) @ visual.proj, dim=-1)

    def encode_tokens(self, tokens: Tensor) -> Tensor:
        """(B, L) -> embeddings of unit length (B, D); what follows the end of a prompt plays no part."""
        clip = cast(Any, self.clip)
        hidden = clip.token_embedding(tokens) + clip.positional_embedding[: tokens.shape[1]]
        blocks = self.towers[1]
        with autocast(blocks, tokens.device):
            for block in blocks:
                hidden = block(hidden)
        rows, ends = torch.arange(len(tokens), device=tokens.device), self.token_counts(tokens) - 1
        pooled = clip.ln_final(hidden[rows, ends].float())
        return normalize(pooled @ clip.text_projection, dim=-1)

    def combine(self, images: Tensor, prompts: Tensor) -> Tensor:
        return cosine(images, prompts)

    def official_state_dict(self) -> dict[str, Tensor]:
        return dict(self.clip.state_dict())

    def save(self, folder: Path, metadata: dict[str, str] | None = None) -> None:
        """The weights, `open_clip_config.json` and the vocabulary."""
        write_weights(folder / "model.safetensors", self.official_state_dict(), metadata)
        write_json(folder / CONFIG, {"model_cfg": self.config})
        self.tokenizer.save(folder)


def _patches(visual: Any, pixels: Tensor) -> Tensor:
    """What an open_clip tower's blocks get: (B, 3, S, S) -> the class token and the patches in order, (B, 1 + P, D)."""
    patches = visual.conv1(pixels).flatten(2).transpose(1, 2)
    token = visual.class_embedding.to(patches.dtype).expand(len(patches), 1, -1)
    tokens = torch.cat([token, patches], dim=1)
    return visual.ln_pre(tokens + visual.positional_embedding.to(tokens.dtype))


def network_config(path: Path | None) -> dict[str, Any]:
    """open_clip's `model_cfg` with the keys that this reward reads filled in; ViT-H-14 (GELU) without a file.

    Raises `TgoError` for a network that is not a plain CLIP of two transformers.
    """
    from open_clip import get_model_config

    raw = (get_model_config("ViT-H-14") or {}) if path is None else read_json(path)
    config = raw.get("model_cfg", raw)
    if not {"embed_dim", "vision_cfg", "text_cfg"} <= config.keys():
        raise TgoError(f"{path} must hold embed_dim, vision_cfg and text_cfg, as open_clip writes it.")
    for part, known in _SIZES.items():
        if not isinstance(config[part], dict):
            raise TgoError(f"{path} describes no network of this reward: {part} is {config[part]!r}.")
        if unknown := sorted(config[part].keys() - known):
            raise TgoError(f"{path} describes no network of this reward: {part} has {', '.join(unknown)}.")
    defaults = {"context_length": 77, "vocab_size": 49408}
    return {
        **config,
        "vision_cfg": {"image_size": 224, **config["vision_cfg"]},
        "text_cfg": {**defaults, **config["text_cfg"]},
    }
