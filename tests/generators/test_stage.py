"""Folders of generations: whole, resumable, the same from one process or two, readable by `datasets`."""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from stages import generate as generate_stage
from stages import prompts as prompts_stage
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import generate_folder, plan
from tgo_pipeline.params import GenerateParams, Params, RuntimeParams, parse
from tgo_pipeline.prompts import prompt_id
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.storage.shards import status
from tgo_pipeline.storage.tables import GENERATIONS, read_folder, read_table
from tgo_pipeline.storage.workspace import HERE

PROMPTS = [(prompt_id(text), text) for text in ("a cat", "a dog", "a bird", "a fish", "an <b>ant</b>")]
PARAMS = GenerateParams(guidance_scale=1.0, steps=2, shard_size=4)
RUNTIME = RuntimeParams(device="cpu", threads=1, generate_batch_size=3)


@pytest.fixture
def job(pipeline_folder: Path) -> dict:
    return {
        "prompts": PROMPTS,
        "split": "train",
        "model": str(pipeline_folder),
        "revision": None,
        "params": PARAMS,
        "images_per_prompt": 2,
        "seed": 7,
        "purpose": "generate",
    }


def _bytes(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.glob("*.parquet")}


def test_rows_shards_and_resume(job: dict, tmp_path: Path) -> None:
    folder = tmp_path / "generations"
    now = generate_folder(folder, **job, runtime=RUNTIME)
    assert (now.done, now.stale, now.to_do, now.failed) == (3, 0, 0, 0)
    first = _bytes(folder)
    assert sorted(first) == [f"train-0000{index}-of-00003.parquet" for index in range(3)]

    table = read_table(folder / "train-00000-of-00003.parquet", GENERATIONS)
    assert table.schema.equals(GENERATIONS)
    rows = read_folder(folder).to_dicts()
    assert [row["sample_id"] for row in rows] == [
        f"{key}-000{index}" for key, _ in PROMPTS for index in (0, 1)
    ]
    assert [row["seed"] for row in rows] == [derive_seed(7, row["sample_id"], "generate") for row in rows]
    for row in rows:
        image = Image.open(io.BytesIO(row["image"]["bytes"]))
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (row["width"], row["height"]))

    middle = folder / "train-00001-of-00003.parquet"
    dates = {name: (folder / name).stat().st_mtime_ns for name in first}
    for damage in (lambda: middle.unlink(), lambda: middle.write_bytes(first[middle.name][:-50])):
        damage()
        generate_folder(folder, **job, runtime=RUNTIME)
        assert _bytes(folder) == first
        assert {n for n in first if (folder / n).stat().st_mtime_ns != dates[n]} == {middle.name}


def test_two_processes_write_the_same_bytes(job: dict, tmp_path: Path) -> None:
    generate_folder(tmp_path / "one", **job, runtime=RUNTIME)
    generate_folder(tmp_path / "two", **job, runtime=replace(RUNTIME, processes=2))
    assert _bytes(tmp_path / "one") == _bytes(tmp_path / "two")


def test_the_plan_knows_what_changes_numbers(job: dict) -> None:
    def changed(**parts) -> list[bool]:
        pairs = zip(plan(**job), plan(**{**job, **parts}), strict=True)
        return [now.fingerprint != then.fingerprint for then, now in pairs]

    assert changed() == [False, False, False]
    assert changed(seed=8) == changed(purpose="evaluate") == [True, True, True]
    assert (
        changed(params=replace(PARAMS, steps=3))
        == changed(params=replace(PARAMS, width=32, height=32))
        == [True] * 3
    )
    assert changed(params=replace(PARAMS, source="images", images="x")) == [False, False, False]
    assert changed(prompts=[*PROMPTS[:2], (prompt_id("new"), "new"), *PROMPTS[3:]]) == [False, True, False]


def test_seeds_tell_model_sides_nothing(job: dict, tmp_path: Path, adapter_folder: Path) -> None:
    """Base and tuned model start from the same noise: same seeds, other images."""
    generate_folder(tmp_path / "base", **job, runtime=RUNTIME)
    generate_folder(tmp_path / "tuned", **{**job, "model": str(adapter_folder)}, runtime=RUNTIME)
    base, tuned = read_folder(tmp_path / "base"), read_folder(tmp_path / "tuned")
    assert base["seed"].to_list() == tuned["seed"].to_list()
    assert base["image"].to_list() != tuned["image"].to_list()


def test_a_missing_model_writes_nothing(job: dict, tmp_path: Path) -> None:
    with pytest.raises(TgoError, match="no such folder"):
        generate_folder(tmp_path / "generations", **{**job, "model": "nosuch"}, runtime=RUNTIME)
    assert not (tmp_path / "generations").exists()


def test_datasets_decodes_the_images(job: dict, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    generate_folder(tmp_path / "g", **job, runtime=RUNTIME)
    files = sorted(str(file) for file in (tmp_path / "g").glob("*.parquet"))
    rows = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert isinstance(rows.features["image"], datasets.Image)
    frame = read_folder(tmp_path / "g")
    expected = np.asarray(Image.open(io.BytesIO(frame["image"][3]["bytes"])))
    assert (np.asarray(rows[3]["image"]) == expected).all()


def test_the_stage_samples_or_takes_images(
    tmp_path: Path, pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("train.txt").write_text("a cat\na dog\n")
    Path("test.txt").write_text("a bird\n")
    raw = {
        "model": str(pipeline_folder),
        "prompts": {"train": "train.txt", "test": {"birds": "test.txt"}},
        "generate": {"images_per_prompt": 2, "steps": 1, "guidance_scale": 1.0},
        "score": {"rewards": {"clip": "demo"}},
        "target": {"reward": "clip"},
        "runtime": {"device": "cpu", "threads": 1},
    }
    sampled = parse(Params, raw)
    with pytest.raises(TgoError, match=r"prompts\.parquet does not exist"):
        generate_stage.run(sampled)
    prompts_stage.run(sampled)
    generate_stage.run(sampled)
    assert status(HERE.generations, generate_stage.plan(sampled)).done == 1
    assert read_folder(HERE.generations)["prompt"].to_list() == ["a cat", "a cat", "a dog", "a dog"]

    Path("images").mkdir()
    Image.new("RGB", (8, 8)).save("images/a.png")
    Path("images/metadata.csv").write_text("file_name,prompt\na.png,a dog\na.png,a bird\nmissing.png,a cow\n")
    taken = parse(Params, {**raw, "generate": {"source": "images", "images": "images"}})
    generate_stage.run(taken)
    after = status(HERE.generations, generate_stage.plan(taken))
    assert (after.done, after.failed) == (1, 1)
    assert read_folder(HERE.generations)["prompt"].to_list() == ["a dog", "a cow"]
    files = [str(file) for file in HERE.generations.glob("*.parquet")]
    rows = pytest.importorskip("datasets").load_dataset(
        "parquet", data_files=files, split="train", cache_dir="cache"
    )
    assert rows[0]["image"].size == (8, 8)
    assert rows[1]["image"] is None
