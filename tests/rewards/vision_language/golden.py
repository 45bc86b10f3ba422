"""Rebuilds the seeded weights of the golden scores of VideoReward and HPSv3 and writes them in the official layouts.

The golden scores were computed by the official code on transformers 4.45.2, which cannot be installed beside current
libraries, with instructions of our own, since the official ones belong to their authors.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor

from tgo_pipeline.rewards.vision_language.clips import Clip

FOLDER = Path(__file__).resolve().parents[4] / "shared/vlm-golden"
needed = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the golden scores of the official packages are not beside this repository"
)


@cache
def golden() -> dict[str, Any]:
    """The recorded scores, token ids and preprocessing statistics."""
    return json.loads((FOLDER / "golden.json").read_text(encoding="utf-8"))


def image(name: str) -> Image.Image:
    """One of the golden images, as stored."""
    return Image.open(FOLDER / "images" / f"{name}.png")


def clip(name: str) -> Clip:
    """One of the golden clips, as arrays."""
    with np.load(FOLDER / "clips" / f"{name}.npz") as stored:
        numerator, denominator = stored["fps"]
        return Clip(stored["frames"], float(numerator) / float(denominator))


def seeded(tag: str, keys: dict[str, list[int]], tied: list[str] | None) -> dict[str, Tensor]:
    """Weights that depend on the tag and the official key alone."""
    state = {key: _seeded(tag, key, shape) for key, shape in keys.items()}
    if tied:
        state[tied[1]] = state[tied[0]].clone()
    return state


def _seeded(tag: str, key: str, shape: list[int]) -> Tensor:
    seed = int.from_bytes(hashlib.sha256(f"{tag}|{key}".encode()).digest()[:4], "little")
    values = np.random.RandomState(seed).standard_normal(shape)
    if len(shape) == 1:
        values = 1 + 0.1 * values if key.endswith(".weight") else 0.1 * values
    else:
        values = values / math.sqrt(math.prod(shape[1:]))
    return torch.from_numpy(np.asarray(values).astype(np.float16).astype(np.float32))


def digest(state: dict[str, Tensor]) -> str:
    """The hash that golden.json records: keys in order, each with its float32 bytes."""
    total = hashlib.sha256()
    for key in sorted(state):
        total.update(key.encode() + state[key].numpy().tobytes())
    return total.hexdigest()


def write_base(folder: Path, config: str) -> None:
    """The base model's files beside the weights, and our instruction."""
    base = folder / "base"
    base.mkdir(parents=True)
    for file in ("tokenizer.json", "tokenizer_config.json", "chat_template.json"):
        shutil.copyfile(FOLDER / "tokenizer" / file, base / file)
    (base / "config.json").write_text(json.dumps(golden()["tiny_configs"][config]))


def write_hpsv3(folder: Path) -> Path:
    """As released: one safetensors file of the whole model."""
    recorded = golden()["hpsv3"]
    write_base(folder, "hpsv3_base")
    state = seeded(recorded["tag"], recorded["keys"], recorded.get("tied"))
    assert digest(state) == recorded["weights_sha256"]
    save_file(state, folder / "HPSv3.safetensors")
    templates = golden()["templates"]
    (folder / "instruction.txt").write_bytes(
        (templates["image_instruction"] + templates["image_tail"]).encode()
    )
    return folder


def write_videoreward(folder: Path, form: str) -> Path:
    """As released: a configuration, and the state dict of the bare class (`plain`) or of the wrapped one (`peft`)."""
    recorded = golden()["videoreward"][form]
    write_base(folder, "videoreward_base")
    state = seeded(recorded["tag"], recorded["keys"], recorded["tied"])
    assert digest(state) == recorded["weights_sha256"]
    (folder / "checkpoint-11").mkdir()
    torch.save(state, folder / "checkpoint-11/model.pth")
    (folder / "checkpoint-9").mkdir()
    (folder / "checkpoint-9/model.pth").write_bytes(b"an earlier one, which is not read")
    (folder / "model_config.json").write_text(json.dumps(recorded["model_config_json"]))
    (folder / "instruction.txt").write_bytes(golden()["templates"]["video"].encode())
    return folder
