"""Saved models of equal weights are equal bytes, whatever folder they were read from."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tgo_pipeline.storage.reproducible import make_reproducible

METADATA = {
    name: f'{name} "é" \\ \n 字' for name in ("format", "fingerprint", "inputs", "prompts", "sample_ids")
}


def save(folder: Path) -> Path:
    folder.mkdir(parents=True)
    save_file({"b": torch.arange(6.0), "a": torch.eye(3)}, folder / "w.safetensors", METADATA)
    config = {"_name_or_path": str(folder), "hidden": 3, "_class_name": "X"}
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_metadata_of_tensors_has_one_order_and_says_the_same(tmp_path: Path) -> None:
    folders = [save(tmp_path / str(number)) for number in range(12)]
    assert len({(folder / "w.safetensors").read_bytes() for folder in folders}) > 1, (
        "the library draws an order"
    )
    for folder in folders:
        make_reproducible(folder)
    assert len({(folder / "w.safetensors").read_bytes() for folder in folders}) == 1
    assert len({(folder / "config.json").read_bytes() for folder in folders}) == 1
    with safe_open(folders[0] / "w.safetensors", "pt") as stream:
        assert stream.metadata() == METADATA
    tensors = load_file(folders[0] / "w.safetensors")
    assert torch.equal(tensors["a"], torch.eye(3)) and torch.equal(tensors["b"], torch.arange(6.0))


def test_the_name_of_a_model_on_the_hub_stays(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"_name_or_path": "openai/clip-vit-large-patch14"}))
    make_reproducible(tmp_path)
    assert (
        json.loads((tmp_path / "config.json").read_text())["_name_or_path"] == "openai/clip-vit-large-patch14"
    )
