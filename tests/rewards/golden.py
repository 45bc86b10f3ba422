"""Rebuilds the seeded weights of the golden scores and writes them as the official checkpoints lay files out.

The golden scores were computed by the official packages (hpsv2 1.2.0, image-reward 1.5, OpenAI CLIP, the PickScore
model card's recipe, the LAION predictor), which cannot be installed beside current libraries.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import torch
from open_clip.model import CLIP
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import BertTokenizer, CLIPConfig, CLIPModel

from benchmarks.parity.networks import to_hugging_face
from tgo_pipeline.rewards.image_reward import ImageReward, text_config, vit_config
from tgo_pipeline.rewards.networks.head import LinearHead

FOLDER = Path(__file__).resolve().parents[3] / "shared/reward-golden"
REASON = "the golden scores of the official packages are not beside this repository"


def golden() -> dict[str, Any]:
    """The recorded scores, token ids and preprocessing statistics."""
    return json.loads((FOLDER / "golden.json").read_text())


def image(name: str) -> Image.Image:
    """One of the golden images, as stored."""
    return Image.open(FOLDER / "png" / f"{name}.png")


def seeded(tag: str, shapes: dict[str, Tensor]) -> dict[str, Tensor]:
    """Weights that depend on the tag and the official key alone; integer tensors stay as they are."""
    return {k: _seeded(tag, k, v) if v.is_floating_point() else v for k, v in shapes.items()}


def _seeded(tag: str, key: str, like: Tensor) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(f"{tag}|{key}".encode()).digest()[:4], "little")
    normal = np.random.RandomState(seed).standard_normal(tuple(like.shape))
    if like.ndim == 0:
        values = np.asarray(math.log(100))
    elif like.ndim == 1:
        values = 1 + 0.1 * normal if key.endswith(".weight") else 0.1 * normal
    else:
        values = normal / math.sqrt(math.prod(like.shape[1:]))
    return torch.from_numpy(np.asarray(values).astype(np.float16).astype(np.float32))


def digest(state: dict[str, Tensor]) -> str:
    """The hash that golden.json records: keys in order, each with its float32 bytes."""
    total = hashlib.sha256()
    for key in sorted(state):
        if state[key].is_floating_point():
            total.update(key.encode() + state[key].numpy().tobytes())
    return total.hexdigest()


def hpsv2_state(configs: dict[str, Any]) -> dict[str, Tensor]:
    return seeded("hpsv2-tiny", CLIP(**configs["open_clip"]).state_dict())


def write_hpsv2(folder: Path, configs: dict[str, Any]) -> str:
    """As `HPS_v2.1_compressed.pt`: half precision, under `state_dict`."""
    state = hpsv2_state(configs)
    half = {key: value.half() for key, value in state.items()}
    folder.mkdir(parents=True)
    torch.save({"epoch": 1, "state_dict": half}, folder / "HPS_v2.1_compressed.pt")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": configs["open_clip"]}))
    return digest(state)


def write_pickscore(folder: Path) -> str:
    """As a Hugging Face CLIPModel folder, without tokenizer files."""
    tower = {"hidden_size": 64, "intermediate_size": 256, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(
        text_config={**tower, "hidden_act": "gelu", "projection_dim": 64, "eos_token_id": 2},
        vision_config={
            **tower,
            "hidden_act": "gelu",
            "projection_dim": 64,
            "image_size": 224,
            "patch_size": 14,
        },
        projection_dim=64,
    )
    state = seeded("pickscore-tiny", CLIPModel(config).state_dict())
    config.save_pretrained(folder)
    save_file(state, folder / "model.safetensors")
    return digest(state)


def write_image_reward(folder: Path, configs: dict[str, Any]) -> str:
    """As `ImageReward.pt`: flat keys with the projections that the score does not use."""
    vision = vit_config(hidden_size=64, layers=2, heads=2, patch_size=16, image_size=224)
    tokenizer = BertTokenizer({"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3})
    shapes = ImageReward(vision, text_config(configs["med"], vision), tokenizer).official_state_dict()
    unused = {
        "blip.vision_proj.weight": torch.empty(256, 64),
        "blip.vision_proj.bias": torch.empty(256),
        "blip.text_proj.weight": torch.empty(256, 768),
        "blip.text_proj.bias": torch.empty(256),
    }
    position_ids = {"blip.text_encoder.embeddings.position_ids": torch.arange(512)[None]}
    state = seeded("imagereward-tiny", {**shapes, **unused, **position_ids})
    folder.mkdir(parents=True)
    torch.save(state, folder / "ImageReward.pt")
    (folder / "med_config.json").write_text(json.dumps(configs["med"]))
    (folder / "vit_config.json").write_text('{"num_heads": 2}')
    shutil.copy(FOLDER / "bert-base-uncased-vocab.txt", folder / "vocab.txt")
    return digest(state)


def clip_state(configs: dict[str, Any]) -> dict[str, Tensor]:
    """OpenAI's keys, which are open_clip's."""
    sizes = configs["openai_clip"]
    vision = {
        "image_size": sizes["image_resolution"],
        "layers": sizes["vision_layers"],
        "width": sizes["vision_width"],
        "patch_size": sizes["vision_patch_size"],
    }
    text = {
        "context_length": sizes["context_length"],
        "vocab_size": sizes["vocab_size"],
        "width": sizes["transformer_width"],
        "heads": sizes["transformer_heads"],
        "layers": sizes["transformer_layers"],
    }
    network = CLIP(embed_dim=sizes["embed_dim"], vision_cfg=vision, text_cfg=text, quick_gelu=True)  # type: ignore[arg-type]
    return seeded("clip-tiny", network.state_dict())


def write_clip(folder: Path, configs: dict[str, Any]) -> str:
    """As a Hugging Face CLIPModel folder."""
    state, sizes = clip_state(configs), configs["openai_clip"]
    config = CLIPConfig(
        text_config={
            "hidden_size": sizes["transformer_width"],
            "intermediate_size": 4 * sizes["transformer_width"],
            "num_hidden_layers": sizes["transformer_layers"],
            "num_attention_heads": sizes["transformer_heads"],
            "hidden_act": "quick_gelu",
            "eos_token_id": 49407,
        },
        vision_config={
            "hidden_size": sizes["vision_width"],
            "intermediate_size": 4 * sizes["vision_width"],
            "num_hidden_layers": sizes["vision_layers"],
            "num_attention_heads": sizes["vision_width"] // 64,
            "hidden_act": "quick_gelu",
            "image_size": sizes["image_resolution"],
            "patch_size": sizes["vision_patch_size"],
        },
        projection_dim=sizes["embed_dim"],
    )
    config.save_pretrained(folder)
    save_file(to_hugging_face(state), folder / "model.safetensors")
    return digest(state)


def write_aesthetic(folder: Path, configs: dict[str, Any]) -> str:
    """As the official .pth beside a CLIPModel folder."""
    write_clip(folder / "clip", configs)
    head = seeded("aesmlp", LinearHead().state_dict())
    torch.save(head, folder / "sac+logos+ava1-l14-linearMSE.pth")
    return digest(head)
