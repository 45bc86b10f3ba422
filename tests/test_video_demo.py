"""The small world's model of clips through the whole pipeline, as its recipe has it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import polars as pl
import pytest

from tests.project import ROOT, run

TGO = (sys.executable, "-m", "stages.cli")
PACKAGE = {"PYTHONPATH": str(ROOT)}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of the recipe, run to its end."""
    folder = tmp_path_factory.mktemp("video")
    run(folder, *TGO, "init", "project", "--recipe", "demo-video", variables=PACKAGE)
    run(folder / "project", *TGO, "run", "all", timeout_s=3600, variables=PACKAGE)
    return folder / "project"


def test_the_tuned_model_is_an_adapter_of_the_embedded_one(project: Path) -> None:
    described = json.loads((project / "models/tuned/tgo.json").read_text())
    assert (described["base"], described["method"]) == ("demo-video", "lora")
    assert list((project / "models/tuned").glob("*.safetensors"))


def test_every_reward_and_the_oracle_compare_the_clips_of_both(project: Path) -> None:
    evaluation = pl.read_parquet(project / "data/evaluation.parquet").filter(pl.col("test_set") == "all")
    rewards = ["moving_choice", "hpsv2.1", "motion", "flicker", "moving_oracle", "mean_z"]
    assert set(rewards) <= set(evaluation["reward"])
    assert set(evaluation["n"]) == {2 * 48}
    (motion,) = evaluation.filter(pl.col("reward") == "motion").to_dicts()
    assert motion["base_mean"] > 0 and motion["tuned_mean"] > motion["base_mean"] / 2
