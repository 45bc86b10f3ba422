"""A reward of one's own with several numbers through a whole project, from scores to the report."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import yaml
from PIL import Image

from stages import run_stage
from tests.plugins.modules import project_folder
from tests.tiny import tiny_diffusion_pipeline
from tgo_pipeline.storage.tables import read_folder, read_metadata
from tgo_pipeline.storage.workspace import HERE

LIGHT = '''
"""Brightness, with the contrast and the share of red."""

import numpy


class Light:
    scale = "mean level, 0 to 255"
    parts = {"contrast": "standard deviation of levels", "red": "share of the red channel, 0 to 1"}

    def __init__(self, source, device):
        self.factor = 1.0

    def __call__(self, images, prompts):
        return [self.rate(numpy.asarray(image, dtype=float)) for image in images]

    def rate(self, levels):
        return self.factor * levels.mean(), levels.std(), levels[..., 0].sum() / max(1.0, levels.sum())
'''
COLUMNS = ["light", "light.contrast", "light.red"]
PARAMS = {
    "model": "base",
    "prompts": {"train": "train.txt", "test": {"plain": "plain.txt"}},
    "generate": {"images_per_prompt": 3, "steps": 1, "guidance_scale": 1.0, "shard_size": 4},
    "score": {"rewards": {"light": "light:Light", "jpeg_kb": None}},
    "target": {"reward": "light.contrast"},
    "threshold": {"bootstrap": 50},
    "evaluate": {"images_per_prompt": 2, "bootstrap": 100, "rewards": {"again": "light:Light=any"}},
    "runtime": {"device": "cpu", "threads": 1},
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project that is finished but for its training: another model takes the place of the tuned one."""
    folder = tmp_path_factory.mktemp("project")
    with pytest.MonkeyPatch.context() as patch, project_folder(folder, patch, light=LIGHT):
        (folder / "train.txt").write_text("a red cat\na blue cat\ncats\n")
        (folder / "plain.txt").write_text("red\nblue\na cat\n")
        (folder / "params.yaml").write_text(yaml.safe_dump(PARAMS))
        tiny_diffusion_pipeline(folder / "base", seed=0)
        tiny_diffusion_pipeline(folder / HERE.model, seed=1)
        for stage in ("prompts", "generate", "score", "threshold", "label", "evaluate", "report"):
            run_stage(stage, Path("params.yaml"))
    return folder


def numbers(folder: Path) -> np.ndarray:
    """The three numbers of every image of a folder of generations, by the rule itself, (N, 3)."""
    found = []
    for image in read_folder(folder, ["sample_id", "image"]).sort("sample_id")["image"]:
        levels = np.asarray(Image.open(io.BytesIO(image["bytes"])).convert("RGB"), dtype=np.float64)
        found.append([levels.mean(), levels.std(), levels[..., 0].sum() / levels.sum()])
    return np.array(found)


def test_every_number_is_scored_and_described(project: Path) -> None:
    scores = read_folder(project / HERE.scores).sort("sample_id")
    assert scores.select(COLUMNS).to_numpy() == pytest.approx(numbers(project / HERE.generations), rel=1e-6)
    about = read_metadata(next((project / HERE.scores).glob("*.parquet")))["rewards"]
    assert list(about) == ["jpeg_kb", *COLUMNS]
    assert about["light.red"]["scale"] == "share of the red channel, 0 to 1"
    assert about["light"]["scale"] == "mean level, 0 to 255"


def test_a_part_is_the_target_of_thresholds_and_labels(project: Path) -> None:
    thresholds = pl.read_parquet(project / HERE.thresholds)
    assert set(COLUMNS) <= set(thresholds["reward"])
    labels = read_folder(project / HERE.labels, ["sample_id", "score"]).sort("sample_id")
    expected = numbers(project / HERE.generations)[:, 1]
    assert labels["score"].to_numpy() == pytest.approx(expected, rel=1e-6)


def test_models_are_compared_on_every_number(project: Path) -> None:
    rows = pl.read_parquet(project / HERE.evaluation).filter(pl.col("test_set") == "plain")
    every = {*COLUMNS, "jpeg_kb", "again", "again.contrast", "again.red"}
    assert set(rows["reward"]) == every
    base, tuned = (numbers(project / HERE.side(name)) for name in ("base", "tuned"))
    for place, name in enumerate(COLUMNS):
        (row,) = rows.filter(pl.col("reward") == name).to_dicts()
        assert row["wins"] == (tuned > base)[:, place].sum()
        assert row["difference"] == pytest.approx((tuned - base)[:, place].mean(), rel=1e-4)
        assert row["is_target"] == (name == "light.contrast")
    legend = read_metadata(project / HERE.evaluation)["legend"]["rewards"]
    assert legend["light.contrast"]["scale"] == "standard deviation of levels"


def test_other_numbers_of_a_targets_reward_are_not_held_out(project: Path) -> None:
    hacking = pl.read_parquet(project / HERE.evaluation_images / "hacking.parquet")
    held = hacking.filter(pl.col("role") == "held out")
    assert set(held["reward"]) == {"jpeg_kb", "again"}


def test_the_report_says_what_each_number_means(project: Path) -> None:
    page = (project / "report.html").read_text(encoding="utf-8")
    for text in ("standard deviation of levels", "share of the red channel", "mean level, 0 to 255"):
        assert text in page
