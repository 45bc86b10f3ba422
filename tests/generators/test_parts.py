"""A shard that a run leaves half drawn: its batches are kept, verified, continued to the same bytes, never counted."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.rewriting import shown
from tgo_pipeline.generators import generate_folder, parts, plan, stage
from tgo_pipeline.params import GenerateParams, RuntimeParams
from tgo_pipeline.prompts import prompt_id
from tgo_pipeline.storage.chunks import chunks
from tgo_pipeline.storage.paths import parquet_files
from tgo_pipeline.storage.shards import Interrupted, parts_folder, status

PROMPTS = [(prompt_id(text), text) for text in ("a cat", "a dog", "a bird", "a fish", "an ant")]
PARAMS = GenerateParams(guidance_scale=1.0, steps=2, shard_size=10)
RUNTIME = RuntimeParams(device="cpu", threads=1, generate_batch_size=3)
NAME = "train-00000-of-00001.parquet"


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


@pytest.fixture
def unbroken(job: dict, tmp_path: Path) -> bytes:
    generate_folder(tmp_path / "unbroken", **job, runtime=RUNTIME)
    assert shown(tmp_path / "unbroken") == [NAME]
    return (tmp_path / "unbroken" / NAME).read_bytes()


def draw(folder: Path, job: dict, batches: int) -> None:
    """Draw with the worker of the stage, which is to end after some batches."""
    (shard,) = plan(**job)
    keys = ("images_per_prompt", "seed", "purpose")
    rows = stage.rows(job["prompts"], **{key: job[key] for key in keys})
    source = stage.SamplingModel(job["model"], job["revision"], job["params"])
    worker = stage._make_worker(folder, chunks(rows, job["params"].shard_size), source, RUNTIME)
    asked = itertools.count(1)
    list(worker([shard], lambda: next(asked) >= batches))


def kept(folder: Path) -> list[str]:
    return shown(parts_folder(folder / NAME))


def test_twice_interrupted_ends_in_the_same_bytes(job: dict, unbroken: bytes, tmp_path: Path) -> None:
    folder = tmp_path / "generations"
    for files in (["00000-00003.parquet"], ["00000-00003.parquet", "00003-00006.parquet"]):
        with pytest.raises(Interrupted):
            draw(folder, job, batches=1)
        assert kept(folder) == files
        assert (parquet_files(folder), shown(folder)) == ([], [])
        now = status(folder, plan(**job))
        assert (now.done, now.stale, now.to_do) == (0, 0, 1)
    generate_folder(folder, **job, runtime=RUNTIME)
    assert (folder / NAME).read_bytes() == unbroken
    assert not parts_folder(folder / NAME).exists()


def test_the_last_batch_ends_the_shard(job: dict, unbroken: bytes, tmp_path: Path) -> None:
    draw(tmp_path, job, batches=4)
    assert (tmp_path / NAME).read_bytes() == unbroken


def test_what_is_stored_on_the_way_survives_any_end(
    job: dict, unbroken: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No signal is needed: batches are stored as time passes, here each of them."""
    monkeypatch.setattr(parts, "EVERY_S", 0.0)
    with pytest.raises(Interrupted):
        draw(tmp_path, job, batches=3)
    assert kept(tmp_path) == ["00000-00003.parquet", "00003-00006.parquet", "00006-00009.parquet"]
    draw(tmp_path, job, batches=99)
    assert (tmp_path / NAME).read_bytes() == unbroken


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-50])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize(("damage", "left"), [(cut, 0), (flip, 0), (Path.unlink, 0), (lambda _: None, 6)])
def test_a_damaged_part_and_what_follows_it_are_drawn_again(
    job: dict,
    unbroken: bytes,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    damage: Callable[[Path], None],
    left: int,
) -> None:
    monkeypatch.setattr(parts, "EVERY_S", 0.0)
    with pytest.raises(Interrupted):
        draw(tmp_path, job, batches=2)
    damage(parts_folder(tmp_path / NAME) / "00000-00003.parquet")
    with caplog.at_level(logging.INFO, "tgo"):
        draw(tmp_path, job, batches=99)
    assert (f"{NAME}: going on after 6 images" in caplog.messages) == (left == 6)
    assert any(message.startswith(f"{NAME}: {10 - left} images") for message in caplog.messages)
    assert (tmp_path / NAME).read_bytes() == unbroken


def test_parts_of_another_shard_are_not_taken(job: dict, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        draw(tmp_path / "a", {**job, "seed": 8}, batches=2)
    generate_folder(tmp_path / "a", **job, runtime=RUNTIME)
    generate_folder(tmp_path / "b", **job, runtime=RUNTIME)
    assert (tmp_path / "a" / NAME).read_bytes() == (tmp_path / "b" / NAME).read_bytes()


def test_parts_of_shards_that_are_not_planned_go(job: dict, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        draw(tmp_path, job, batches=2)
    generate_folder(tmp_path, **{**job, "params": replace(PARAMS, shard_size=5)}, runtime=RUNTIME)
    assert not parts_folder(tmp_path / NAME).exists()
