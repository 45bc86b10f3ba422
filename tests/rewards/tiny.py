"""Tiny reward networks with small vocabularies and random weights from a seed, and images for them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig

from tgo_pipeline.rewards.aesthetic import Aesthetic
from tgo_pipeline.rewards.base import NetworkReward
from tgo_pipeline.rewards.clip_score import ClipScore
from tgo_pipeline.rewards.hpsv2 import HPSv2
from tgo_pipeline.rewards.image_reward import ImageReward, blip_tokenizer, text_config, vit_config
from tgo_pipeline.rewards.networks.clip_models import vision_config
from tgo_pipeline.rewards.networks.tokenizers import OpenClipTokenizer, hugging_face_tokenizer
from tgo_pipeline.rewards.pickscore import PickScore

MERGES = ["r e", "re d</w>", "b l", "bl u", "blu e</w>", "c a", "ca t</w>"]
VOCABULARY = 512 + len(MERGES) + 2
LENGTH = 12
SIZE = 32
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "red", "blue", "cat", "##s"]
HEAD = (24, 32, 16, 8, 4, 1)


def clip_config() -> CLIPConfig:
    """CLIP of width 32 for images of 32 pixels."""
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
    text = {"vocab_size": VOCABULARY, "max_position_embeddings": LENGTH, "eos_token_id": VOCABULARY - 1}
    return CLIPConfig(
        text_config={**tower, **text, "bos_token_id": VOCABULARY - 2, "pad_token_id": VOCABULARY - 1},
        vision_config={**tower, "image_size": SIZE, "patch_size": 8},
        projection_dim=24,
    )


def build(name: str, seed: int = 0) -> NetworkReward:
    """A tiny network of reward `name` with random weights that depend on `seed` alone."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return _BUILDERS[name]().eval()


def write(name: str, folder: Path, seed: int = 0) -> Path:
    """Save a tiny network where `load_reward` finds it; returns the folder."""
    build(name, seed).save(folder)
    return folder


def smooth_image(width: int, height: int) -> Image.Image:
    """A smooth image with some noise, always the same."""
    y, x = np.mgrid[:height, :width]
    waves = np.stack([np.sin(x / 9), np.cos(y / 7), np.sin((x + y) / 11)], -1) * 90 + 128
    noise = np.random.default_rng(0).normal(0, 12, waves.shape)
    return Image.fromarray(np.clip(waves + noise, 0, 255).astype(np.uint8))


def png(image: Image.Image) -> bytes:
    """The image as PNG."""
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


def _hpsv2() -> HPSv2:
    config = {
        "embed_dim": 24,
        "vision_cfg": {"image_size": SIZE, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {
            "context_length": LENGTH,
            "vocab_size": VOCABULARY,
            "width": 32,
            "heads": 2,
            "layers": 2,
        },
    }
    return HPSv2(config, OpenClipTokenizer(MERGES, LENGTH))


def _image_reward() -> ImageReward:
    vision = vit_config(hidden_size=32, layers=2, heads=2, patch_size=8, image_size=SIZE)
    tokenizer = blip_tokenizer(WORDS)
    med = {
        "hidden_size": 24,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "hidden_act": "gelu",
        "vocab_size": len(tokenizer),
        "pad_token_id": 0,
    }
    return ImageReward(vision, text_config(med, vision), tokenizer, HEAD)


_BUILDERS = {
    "hpsv2.1": _hpsv2,
    "pickscore": lambda: PickScore(clip_config(), hugging_face_tokenizer(MERGES, LENGTH)),
    "imagereward": _image_reward,
    "clip": lambda: ClipScore(clip_config(), OpenClipTokenizer(MERGES, LENGTH)),
    "aesthetic": lambda: Aesthetic(vision_config(clip_config()), HEAD),
}
