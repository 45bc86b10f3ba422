"""The cache of latents and embeddings against the models' own output."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from fine_tune.data.cache import PROMPTS_PER_SHARD, EncodingSource, encode_folder, plan, prompt_chunks
from fine_tune.data.tensors import read_tensors, write_tensors
from fine_tune.policies.diffusion import DiffusionEncoder
from tests.fine_tune import world
from tests.tiny import IMAGE_SIZE
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.storage.tables import GENERATIONS, read_table

CPU = RuntimeParams(device="cpu", generate_batch_size=5)


def source_of(root: Path, model: Path) -> EncodingSource:
    return EncodingSource(root / "generations", str(model), None, (None, None))


def encode(folder: Path, origin: EncodingSource) -> None:
    encode_folder(folder, origin, plan(origin), CPU)


def test_latents_are_the_scaled_mode_of_the_vae(source: Path, model: Path, tmp_path: Path) -> None:
    origin = source_of(source, model)
    encode(tmp_path, origin)
    tensors, metadata = read_tensors(tmp_path / "train-00001-of-00002.safetensors")
    vae = load_pipeline(str(model)).vae
    ids = json.loads(metadata["sample_ids"])
    table = read_table(source / "generations" / "train-00001-of-00002.parquet", GENERATIONS)
    assert ids == table["sample_id"].to_pylist()
    number = ids.index("p4-0002")
    pixels = np.asarray(world.random_image(4 * world.PER_PROMPT + 2), dtype=np.float32) / 255 * 2 - 1
    with torch.no_grad():
        mean = vae.encode(torch.from_numpy(pixels).permute(2, 0, 1)[None]).latent_dist.mean
    torch.testing.assert_close(tensors["latents"][number], mean[0] * 0.18215, atol=1e-5, rtol=1e-4)


def test_each_distinct_prompt_is_encoded_once_after_the_empty_one(
    source: Path, model: Path, tmp_path: Path
) -> None:
    encode(tmp_path, source_of(source, model))
    tensors, metadata = read_tensors(tmp_path / "prompts-00000-of-00001.safetensors")
    prompts = json.loads(metadata["prompts"])
    assert prompts == ["", *(f"picture number {number}" for number in range(world.PROMPT_COUNT))]
    pipeline = load_pipeline(str(model))
    for prompt, embedding in zip(prompts, tensors["embeddings"], strict=True):
        tokens = pipeline.tokenizer(
            prompt, padding="max_length", truncation=True, max_length=24, return_tensors="pt"
        )
        with torch.no_grad():
            expected = pipeline.text_encoder(tokens.input_ids).last_hidden_state[0]
        torch.testing.assert_close(embedding, expected, atol=1e-5, rtol=1e-4)


def test_the_denoiser_is_not_read(source: Path, model: Path, tmp_path: Path) -> None:
    copied = tmp_path / "model"
    shutil.copytree(model, copied)
    origin = source_of(source, copied)
    planned = plan(origin)
    (copied / "unet" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    encode_folder(tmp_path / "encoded", origin, planned, CPU)
    assert {file.name for file in (tmp_path / "encoded").glob("*.safetensors")} == {
        shard.name for shard in planned
    }


def test_memory_that_runs_out_halves_what_is_encoded_at_once(
    source: Path,
    model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """On a device that holds two images, and one prompt, at a time."""
    origin = source_of(source, model)
    encode(tmp_path / "plenty", origin)
    encoded = []

    def scarce(work: Any, most: int) -> Any:
        def within(self: Any, rows: Any, *args: Any) -> Any:
            if len(rows) > most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
            encoded.append(len(rows))
            return work(self, rows, *args)

        return within

    monkeypatch.setattr(DiffusionEncoder, "images", scarce(DiffusionEncoder.images, 2))
    monkeypatch.setattr(DiffusionEncoder, "prompts", scarce(DiffusionEncoder.prompts, 1))
    with caplog.at_level(logging.WARNING, logger="tgo"):
        encode(tmp_path / "scarce", origin)
    assert sum(encoded) == world.SAMPLES + world.PROMPT_COUNT + 1 and max(encoded) == 2
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        "out of memory: going on with batches of 2 (runtime.generate_batch_size, for encoding)"
    ] * 2 + ["out of memory: going on with batches of 1 (runtime.generate_batch_size, for encoding)"]
    for file in (tmp_path / "plenty").glob("*.safetensors"):
        tensors, expected = read_tensors(tmp_path / "scarce" / file.name), read_tensors(file)
        assert tensors[1] == expected[1]
        for name, rows in expected[0].items():
            torch.testing.assert_close(tensors[0][name], rows, atol=1e-5, rtol=1e-4)
    monkeypatch.setattr(DiffusionEncoder, "images", scarce(DiffusionEncoder.images, 0))
    with pytest.raises(TgoError, match=r"not even one image fits into memory .*smaller generate\.width"):
        encode(tmp_path / "none", origin)


def test_prompts_are_cut_into_shards(tmp_path: Path) -> None:
    row = world.generation(0, 0)
    rows = [row | {"prompt": f"prompt {number}"} for number in range(PROMPTS_PER_SHARD + 5)]
    world.write_generations(tmp_path / "train-00000-of-00001.parquet", rows)
    assert [len(chunk) for chunk in prompt_chunks(tmp_path)] == [PROMPTS_PER_SHARD, 6]


def test_other_sizes_are_resized_and_cropped(tmp_path: Path, model: Path) -> None:
    stripes = Image.new("RGB", (96, 64), "white")
    stripes.paste((0, 0, 0), (8, 0, 88, 64))  # a square crop keeps 16 to 80
    rows = [
        world.generation(0, 0) | {"image": {"bytes": world.png(stripes), "path": "a.png"}},
        world.generation(0, 1)
        | {"image": {"bytes": world.png(Image.new("RGB", (IMAGE_SIZE, IMAGE_SIZE))), "path": "b.png"}},
    ]
    world.write_generations(tmp_path / "generations" / "train-00000-of-00001.parquet", rows)
    encode(tmp_path / "encoded", source_of(tmp_path, model))
    tensors, _ = read_tensors(tmp_path / "encoded" / "train-00000-of-00001.safetensors")
    torch.testing.assert_close(tensors["latents"][0], tensors["latents"][1], atol=1e-6, rtol=1e-5)


def test_what_cannot_be_decoded_is_left_out(tmp_path: Path, model: Path) -> None:
    whole = world.generation(0, 0)
    rows = [
        whole,
        world.generation(0, 1) | {"image": {"bytes": whole["image"]["bytes"][:200], "path": "x.png"}},
        world.generation(0, 2) | {"image": None},
    ]
    world.write_generations(tmp_path / "generations" / "train-00000-of-00001.parquet", rows)
    encode(tmp_path / "encoded", source_of(tmp_path, model))
    tensors, metadata = read_tensors(tmp_path / "encoded" / "train-00000-of-00001.safetensors")
    assert json.loads(metadata["sample_ids"]) == ["p0-0000"]
    assert len(tensors["latents"]) == 1


def test_only_what_changed_is_encoded_again(source: Path, model: Path, tmp_path: Path) -> None:
    origin = source_of(source, model)
    encode(tmp_path, origin)
    written = {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()}
    encode(tmp_path, origin)
    assert {file.name: file.stat().st_mtime_ns for file in tmp_path.iterdir()} == written
    (tmp_path / "prompts-00000-of-00001.safetensors").write_bytes(b"cut short")
    encode(tmp_path, origin)
    changed = {file.name for file in tmp_path.iterdir() if file.stat().st_mtime_ns != written[file.name]}
    assert changed == {"prompts-00000-of-00001.safetensors", ".prompts-00000-of-00001.safetensors.xxh3"}


def test_missing_and_incomplete_generations_are_errors(tmp_path: Path, model: Path) -> None:
    with pytest.raises(TgoError, match="generate stage first"):
        plan(source_of(tmp_path, model))
    world.write_generations(
        tmp_path / "generations" / "train-00001-of-00002.parquet", [world.generation(0, 0)]
    )
    with pytest.raises(TgoError, match="incomplete"):
        plan(source_of(tmp_path, model))
    with pytest.raises(TgoError, match="nowhere"):
        plan(EncodingSource(tmp_path / "generations", str(tmp_path / "nowhere"), None, (None, None)))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    write_tensors({"a": torch.arange(3)[::2]}, tmp_path / "x.safetensors", {"k": "v"})
    tensors, metadata = read_tensors(tmp_path / "x.safetensors")
    assert tensors["a"].tolist() == [0, 2] and metadata == {"k": "v"}
    (tmp_path / "x.safetensors").write_bytes(b"no")
    with pytest.raises(TgoError, match=r"x.safetensors"):
        read_tensors(tmp_path / "x.safetensors")


@pytest.mark.parametrize(
    ("part", "name", "reason"),
    [
        ("vae", "quant_conv.bias", "encodes images to latents with NaN or infinity.* VAE is damaged"),
        (
            "text_encoder",
            "final_layer_norm.bias",
            "encodes prompts to embeddings with NaN .* text encoders are",
        ),
    ],
)
def test_what_is_encoded_to_no_numbers_is_refused(
    part: str, name: str, reason: str, source: Path, model: Path, tmp_path: Path
) -> None:
    broken = Path(shutil.copytree(model, tmp_path / "model"))
    (file,) = (broken / part).glob("*.safetensors")
    tensors = load_file(file)
    tensors[name][0] = torch.nan
    save_file(tensors, file, {"format": "pt"})
    with pytest.raises(TgoError, match=reason):
        encode(tmp_path / "encoded", source_of(source, broken))
