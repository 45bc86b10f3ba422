"""Clips through the whole pipeline: a tiny Wan drawn, scored, labelled, tuned and compared, by the command line."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml

from fine_tune.data import cache
from fine_tune.data.tensors import read_tensors
from tests.tiny_families import tiny_wan_pipeline
from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.video_files import read_frames
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.generators.sample import Sampler
from tgo_pipeline.generators.stage import generate_folder
from tgo_pipeline.params import GenerateParams, RuntimeParams
from tgo_pipeline.prompts import prompt_id
from tgo_pipeline.scoring.stage import plan, score_folder
from tgo_pipeline.storage.tables import VIDEO_GENERATIONS, read_table, write_table

SIZE, FRAMES = 16, 5
PARAMS = GenerateParams(
    steps=2, guidance_scale=3.0, width=SIZE, height=SIZE, frames=FRAMES, fps=8.0, shard_size=4
)
RUNTIME = RuntimeParams(device="cpu", generate_batch_size=2)
REWARDS = {"pickscore": "demo", "motion": None}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_wan_pipeline(tmp_path_factory.mktemp("wan"))


def job(model: Path, **changes: Any) -> dict[str, Any]:
    prompts = ["a cat", "two dogs", "rain"]
    return {
        "prompts": [(prompt_id(prompt), prompt) for prompt in prompts],
        "split": "train",
        "model": str(model),
        "revision": None,
        "params": PARAMS,
        "images_per_prompt": 2,
        "seed": 0,
        "purpose": "test",
        **changes,
    }


@pytest.fixture(scope="module")
def generations(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("project") / "generations"
    generate_folder(folder, **job(model), runtime=RUNTIME)
    return folder


def test_the_table_holds_what_was_drawn(generations: Path, model: Path) -> None:
    files = sorted(generations.glob("*.parquet"))
    tables = [read_table(file, VIDEO_GENERATIONS) for file in files]
    records = [record for table in tables for record in table.to_pylist()]
    assert tables[0].column_names == VIDEO_GENERATIONS.names and "image" not in tables[0].column_names
    sampler = Sampler(load_pipeline(str(model)), PARAMS, 1)
    drawn = list(
        sampler.images([record["prompt"] for record in records], [record["seed"] for record in records])
    )
    for record, clip in zip(records, drawn, strict=True):
        frames, rate = read_frames(record["video"]["bytes"])
        assert np.abs(frames.astype(int) - clip.astype(int)).max() <= 1  # drawn alone and not in twos
        assert (record["frames"], record["fps"], rate) == (FRAMES, 8, 8)
        assert (record["width"], record["height"]) == (SIZE, SIZE)
        assert record["video"]["path"] == f"{record['sample_id']}.mp4"
        assert read_frames(record["preview"]["bytes"])[0].shape == frames.shape
    features = json.loads(pq.read_schema(files[0]).metadata[b"huggingface"])["info"]["features"]
    assert features["video"] == features["preview"] == {"_type": "Video"}


def test_the_same_clips_are_the_same_bytes(generations: Path, model: Path, tmp_path: Path) -> None:
    generate_folder(tmp_path, **job(model), runtime=RUNTIME)
    for file in sorted(generations.glob("*.parquet")):
        assert (tmp_path / file.name).read_bytes() == file.read_bytes()


def test_datasets_reads_the_clips(generations: Path) -> None:
    datasets = pytest.importorskip("datasets")
    files = [str(file) for file in sorted(generations.glob("*.parquet"))]
    table = datasets.load_dataset("parquet", data_files=files, split="train")
    for name in ("video", "preview"):  # to decode them, datasets wants torchcodec
        table = table.cast_column(name, datasets.Video(decode=False))
    assert read_frames(table[0]["video"]["bytes"])[0].shape == (FRAMES, SIZE, SIZE, 3)


def test_frames_that_the_model_does_not_draw_are_refused(model: Path, tmp_path: Path) -> None:
    with pytest.raises(TgoError, match=r"generate.frames is 8: .*multiple of 4 and one more, such as 5"):
        Sampler(load_pipeline(str(model)), dataclasses.replace(PARAMS, frames=8), 1)
    with pytest.raises(TgoError, match="are for models that draw clips"):
        Sampler(load_pipeline("demo"), PARAMS, 1)


def test_clips_are_scored_and_a_damaged_one_keeps_its_row(generations: Path, tmp_path: Path) -> None:
    copy = tmp_path / "generations"
    copy.mkdir()
    first, *others = sorted(generations.glob("*.parquet"))
    rows = read_table(first).to_pylist()
    rows[1]["video"]["bytes"] = rows[1]["video"]["bytes"][:300]
    import pyarrow as pa

    write_table(pa.Table.from_pylist(rows, VIDEO_GENERATIONS), copy / first.name, {"fingerprint": "damaged"})
    for file in others:
        write_table(read_table(file), copy / file.name, {"fingerprint": file.name})
    scores = tmp_path / "scores"
    score_folder(copy, scores, REWARDS, runtime=RUNTIME, max_error_rate=0.5, frames=2)
    found = read_table(scores / first.name).to_pylist()
    assert [row["motion"] is None for row in found] == [False, True, False, False]
    assert found[1]["pickscore"] is None and found[1]["error"]
    (shard, *_), (longer, *_) = (plan(copy, REWARDS, frames=frames) for frames in (2, 3))
    assert shard.fingerprint != longer.fingerprint
    with pytest.raises(TgoError, match="1 of 6 images could not be scored"):
        score_folder(copy, scores, REWARDS, runtime=RUNTIME, max_error_rate=0.0, frames=2)


def test_rewards_of_clips_are_refused_for_images(tmp_path: Path) -> None:
    from tests.fine_tune import world

    rows = [world.generation(0, 0)]
    world.write_generations(tmp_path / "generations" / "train-00000-of-00001.parquet", rows)
    with pytest.raises(TgoError, match="motion scores clips, and images are scored here"):
        plan(tmp_path / "generations", {"motion": None})
    with pytest.raises(TgoError, match=r"score.frame_parts is min, which are of the frames of clips"):
        plan(tmp_path / "generations", {"pickscore": "demo"}, frame_parts=["min"])


def test_the_cache_holds_latents_and_cut_prompts(generations: Path, model: Path, tmp_path: Path) -> None:
    source = cache.EncodingSource(generations, str(model), None, (SIZE, SIZE))
    cache.encode_folder(tmp_path, source, cache.plan(source), RUNTIME)
    latents = read_tensors(next(tmp_path.glob("train-*")))[0]
    assert set(latents) == {"latents"} and latents["latents"].shape[1:] == (16, 2, 2, 2)
    prompts = read_tensors(next(tmp_path.glob("prompts-*")))[0]["embeddings"]
    assert prompts.shape[0] == 4 and prompts.shape[1] < 20  # the empty prompt's end token, then zeros
    assert prompts[0, 0].any() and not prompts[0, 1:].any()
    other = cache.EncodingSource(generations, "demo", None, (None, None))
    with pytest.raises(
        TgoError, match="holds clips, and the model's family DiffusionPolicy is trained on images"
    ):
        cache.encode_folder(tmp_path / "other", other, cache.plan(other), RUNTIME)


@pytest.mark.parametrize("objective", ["tgo"])
def test_the_whole_run(objective: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from typer.testing import CliRunner

    from stages.cli import app
    from tgo_pipeline.rewards import load_reward, score_all

    (tmp_path / "train.txt").write_text("".join(f"clip number {number}\n" for number in range(6)))
    (tmp_path / "test.txt").write_text("a cat\ntwo dogs\n")
    params = {
        "seed": 1,
        "model": str(model),
        "prompts": {"train": "train.txt", "test": {"plain": "test.txt"}},
        "generate": {
            "images_per_prompt": 2,
            "guidance_scale": 3.0,
            "steps": 2,
            "width": SIZE,
            "height": SIZE,
            "frames": FRAMES,
            "fps": 8,
        },
        "score": {"rewards": {"pickscore": "demo", "motion": None}, "frames": 2, "frame_parts": ["min"]},
        "target": {"reward": "pickscore.min"},
        "threshold": {"bootstrap": 10},
        "fine_tune": {
            "objective": objective,
            "method": "lora",
            "steps": 3,
            "batch_size": 4,
            "learning_rate": 0.01,
            "caption_dropout": 0.2,
            "lora": {"rank": 2, "alpha": 2},
        },
        "evaluate": {"images_per_prompt": 2, "bootstrap": 20},
        "runtime": {"device": "cpu"},
    }
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["run", "all"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    rows = read_table(next((tmp_path / "data/scores").glob("*.parquet"))).to_pylist()
    clips = read_table(next((tmp_path / "data/generations").glob("*.parquet"))).to_pylist()
    frames = [read_frames(row["video"]["bytes"])[0] for row in clips]
    from PIL import Image

    images = [Image.fromarray(clip[place]) for clip in frames for place in (0, FRAMES - 1)]
    texts = [row["prompt"] for row in clips for _ in range(2)]
    alone = score_all({"p": load_reward("pickscore", "demo")}, images, texts).columns["p"].reshape(-1, 2)
    np.testing.assert_allclose([row["pickscore"] for row in rows], alone.mean(1), rtol=1e-4)
    np.testing.assert_allclose([row["pickscore.min"] for row in rows], alone.min(1), rtol=1e-4)
    labels = read_table(next((tmp_path / "data/labels").glob("*.parquet"))).to_pylist()
    assert [label["score"] for label in labels] == [row["pickscore.min"] for row in rows]
    from diffusers import WanPipeline

    pipeline = WanPipeline.from_pretrained(model)
    pipeline.load_lora_weights(tmp_path / "models/tuned")
    assert any("lora_B" in name and p.any() for name, p in pipeline.transformer.named_parameters())
    evaluation = read_table(tmp_path / "data/evaluation.parquet").to_pylist()
    assert {row["reward"] for row in evaluation} == {"pickscore", "pickscore.min", "motion"}
    assert (tmp_path / "report.html").is_file() or list(tmp_path.rglob("*.html"))
    again = CliRunner().invoke(app, ["status"], catch_exceptions=False)
    assert again.exit_code == 0 and "to do" in again.output
