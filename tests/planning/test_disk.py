"""Planned sizes of files against files."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save_file

from tgo_pipeline.generators.sample import png
from tgo_pipeline.generators.stage import rows
from tgo_pipeline.planning import disk
from tgo_pipeline.storage.chunks import chunks


@pytest.mark.parametrize("text", ["", "plain", 'quotes " and \\ and\nlines\t', "Grüße, 你好, \U0001f600"])
def test_a_safetensors_file_is_as_long_as_planned(text: str, tmp_path: Path) -> None:
    tensors = {
        "b.weight": torch.zeros(3, 5),
        "a": torch.zeros((), dtype=torch.int64),
        "mask": torch.zeros(7, dtype=torch.bool),
        "half": torch.zeros(2, 3, dtype=torch.bfloat16),
    }
    metadata = {"fingerprint": "0123456789abcdef", "text": text}
    save_file(tensors, tmp_path / "a.safetensors", metadata)
    shapes = {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}
    assert disk.safetensors_bytes(shapes, metadata) == (tmp_path / "a.safetensors").stat().st_size


@given(st.integers(1, 40), st.integers(1, 20), st.integers(1, 30))
def test_shards_are_counted_as_they_are_cut(prompts: int, images: int, size: int) -> None:
    todo = rows([(str(n), "") for n in range(prompts)], images_per_prompt=images, seed=0, purpose="")
    assert disk.shard_count(prompts, images, size) == len(chunks(todo, size))


@pytest.mark.parametrize("side", [1, 32, 300])
def test_noise_compresses_to_no_more_than_the_bound(side: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    assert len(png(Image.fromarray(noise))) <= disk.png_most_bytes(side, side)
    stream = io.BytesIO()
    Image.fromarray(noise).save(stream, "PNG", compress_level=0)
    assert len(stream.getvalue()) <= disk.png_most_bytes(side, side)
