from __future__ import annotations

import base64
import dataclasses
import io
from pathlib import Path

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from PIL import Image

from tests.report.test_thumbnails import photograph
from tests.report.workspace import HOSTILE, LONG, Workspace, draw
from tgo_pipeline.params import Params
from tgo_pipeline.rendering.text import PROMPT_LIMIT, script_json
from tgo_pipeline.report.gallery.gallery import Exhibition, prepare
from tgo_pipeline.storage import tables


def _with(params: Params, **report: float) -> Params:
    return dataclasses.replace(params, report=dataclasses.replace(params.report, **report))


def _prepared(workspace: Workspace, **report: float) -> Exhibition:
    made = prepare(_with(workspace.params, **report), workspace.sources)
    assert made is not None
    return made


@pytest.fixture(scope="module")
def exhibition(workspace: Workspace) -> Exhibition:
    return _prepared(workspace)


def _ids(island: dict) -> set[tuple[str, str]]:
    return {(island["models"][model], id_) for model, id_ in zip(island["model"], island["id"], strict=True)}


def test_an_island_says_what_the_tables_say(exhibition: Exhibition, workspace: Workspace) -> None:
    gallery = exhibition.hang(10_000_000)
    island = gallery.island
    assert (gallery.shown, gallery.total, gallery.limited_by) == (336, 336, None)
    places = {key: place for place, key in enumerate(zip(island["model"], island["id"], strict=True))}
    rewards = [reward["name"] for reward in island["rewards"]]
    labels = tables.read_folder(workspace.sources.labels)
    prompts = dict(tables.read_folder(workspace.sources.generations, ["sample_id", "prompt"]).iter_rows())
    for row in labels.iter_rows(named=True):
        place = places[(0, row["sample_id"])]
        assert island["label"][place] == row["label"]
        assert island["weight"][place] == pytest.approx(row["weight"], abs=1e-3)
        assert island["scores"][rewards.index("mean_z")][place] == pytest.approx(row["score"], abs=1e-3)
        assert island["prompts"][island["prompt"][place]][:40] == prompts[row["sample_id"]][:40]
    seeds = dict(tables.read_folder(workspace.sources.side("base"), ["sample_id", "seed"]).iter_rows())
    base = island["models"].index("base")
    assert all(island["seed"][places[(base, id_)]] == str(seed) for id_, seed in seeds.items())


def test_images_are_those_of_their_model(exhibition: Exhibition, workspace: Workspace) -> None:
    island = exhibition.hang(10_000_000).island
    place = next(place for place, model in enumerate(island["model"]) if island["models"][model] == "tuned")
    stored = tables.read_folder(workspace.sources.side("tuned")).filter(
        pl.col("sample_id") == island["id"][place]
    )
    original = Image.open(io.BytesIO(stored["image"][0]["bytes"])).convert("RGB")
    shown = Image.open(io.BytesIO(base64.b64decode(island["image"][place]))).convert("RGB")
    assert np.array_equal(np.asarray(shown), np.asarray(original))


def test_a_failure_keeps_its_reason(exhibition: Exhibition) -> None:
    island = exhibition.hang(10_000_000).island
    failed = [place for place, error in enumerate(island["error"]) if error is not None]
    assert [island["errors"][island["error"][place]] for place in failed] == [
        "OSError: image file is truncated"
    ]
    assert island["image"][failed[0]] is None


def test_hostile_prompts_are_spelled_out_and_cut(exhibition: Exhibition) -> None:
    prompts = exhibition.hang(10_000_000).island["prompts"]
    assert HOSTILE not in prompts and LONG not in prompts
    assert max(map(len, prompts)) < PROMPT_LIMIT + 400
    assert any("⟨U+202E⟩" in prompt for prompt in prompts)


@pytest.mark.parametrize("budget", [0, 5_000, 60_000, 300_000])
def test_the_budget_holds_exactly_and_more_of_it_only_adds(exhibition: Exhibition, budget: int) -> None:
    small, large = exhibition.hang(budget), exhibition.hang(budget + 50_000)
    assert len(script_json(small.island)) <= max(budget, 700)  # an island without samples has its keys
    assert _ids(small.island) <= _ids(large.island)
    assert small.limited_by == "max_mb"
    assert small.bytes_ == sum(
        len(f"data:image/webp;base64,{image}") for image in small.island["image"] if image
    )


def test_a_small_gallery_keeps_both_ends_and_every_set(exhibition: Exhibition, workspace: Workspace) -> None:
    island = exhibition.hang(120_000).island
    assert 20 < len(island["id"]) < 100
    assert set(island["splits"]) == {"training", "plain", "sized", "placed"}
    labels = tables.read_folder(workspace.sources.labels).sort("score")
    assert {labels["sample_id"][0], labels["sample_id"][-1]} <= set(island["id"])
    models = [island["models"][model] for model in island["model"]]
    assert models.count("base") == models.count("tuned") == models.count("early")


def test_the_number_of_samples_is_bounded(workspace: Workspace) -> None:
    gallery = _prepared(workspace, gallery=50).hang(10_000_000)
    assert 45 < gallery.shown <= 50
    assert gallery.limited_by == "gallery"


def test_thumbnails_have_the_size_that_was_asked_for(workspace: Workspace, tmp_path: Path) -> None:
    shard = sorted(workspace.sources.generations.glob("*.parquet"))[0]
    rows = tables.read_table(shard).slice(0, 4).to_pylist()
    for row in rows:
        row["image"]["bytes"] = draw("a small red circle on a white background", 0.5, row["index"], 120)
    tables.write_table(pa.Table.from_pylist(rows, schema=tables.GENERATIONS), tmp_path / shard.name, {})
    sources = workspace.sources.moved(generations=tmp_path, evaluation_images=tmp_path)
    made = prepare(_with(workspace.params, thumbnail=48), sources)
    assert made is not None
    island = made.hang(10_000_000).island
    images = [image for image in island["image"] if image]
    assert {Image.open(io.BytesIO(base64.b64decode(image))).size for image in images} == {(48, 48)}
    assert sorted(width for width in island["width"] if width) == [120] * 4


def test_photographs_fill_the_bytes_that_there_are(workspace: Workspace, tmp_path: Path) -> None:
    rows = (
        tables.read_table(sorted(workspace.sources.generations.glob("*.parquet"))[0]).slice(0, 6).to_pylist()
    )
    for row in rows:
        row["image"]["bytes"] = photograph(row["index"] + len(row["prompt"]))
    tables.write_table(
        pa.Table.from_pylist(rows, schema=tables.GENERATIONS), tmp_path / "train-00000-of-00001.parquet", {}
    )
    sources = workspace.sources.moved(generations=tmp_path, evaluation_images=tmp_path)
    made = prepare(_with(workspace.params, gallery=200), sources)
    assert made is not None
    ample, scarce = made.hang(40_000_000), made.hang(2_500_000)
    assert (ample.side, ample.images) == (640, 6)
    assert 96 < scarce.side < 640
    assert (scarce.images, scarce.shown) == (6, ample.shown)  # smaller, and not one fewer
    assert len(script_json(scarce.island)) <= 2_500_000


def test_a_missing_generation_leaves_a_reason(workspace: Workspace, tmp_path: Path) -> None:
    tables.write_table(
        tables.read_table(sorted(workspace.sources.generations.glob("*.parquet"))[0]).slice(0, 3),
        tmp_path / "train-00000-of-00001.parquet",
        {},
    )
    made = prepare(workspace.params, workspace.sources.moved(generations=tmp_path))
    assert made is not None
    island = made.hang(10_000_000).island
    assert "its generation is missing" in island["errors"]


def test_without_generations_or_with_none_wanted_there_is_no_gallery(
    workspace: Workspace, tmp_path: Path
) -> None:
    assert prepare(_with(workspace.params, gallery=0), workspace.sources) is None
    assert prepare(workspace.params, workspace.sources.moved(generations=tmp_path)) is None
