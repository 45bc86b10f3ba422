"""The masked small world through the whole pipeline, with another objective, and the sweep of its strength."""

import json
from pathlib import Path

import polars as pl
import pytest

from tests.project import copy_project, run


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after an experiment that changes the model and the objective."""
    folder = copy_project(tmp_path_factory.mktemp("masked") / "project")
    run(folder, "dvc", "exp", "run", "-S", "model=demo-masked", "-S", "fine_tune.objective=cpgd")
    return folder


def test_the_masked_model_is_sampled_tuned_and_evaluated(project: Path):
    generations = pl.read_parquet(project / "data/generations/*.parquet", columns=["model"])
    assert set(generations["model"]) == {"demo-masked"}
    assert sorted(path.name for path in (project / "models/tuned").iterdir()) == [
        "negative",
        "positive",
        "tgo.json",
    ]
    described = json.loads((project / "models/tuned/tgo.json").read_text())
    assert (described["base"], described["kind"]) == ("demo-masked", "cpgd")
    evaluation = pl.read_parquet(project / "data/evaluation.parquet")
    assert evaluation["n"].min() > 0
    assert "CPGD" not in (page := (project / "report.html").read_text()) and "cPGD" in page


def test_a_sweep_shows_reward_and_diversity_against_strength(project: Path):
    run(project, "tgo", "sweep", "--strengths", "0,1")
    tables = list((project / "data").rglob("*sweep*.parquet")) + list((project / "plots").rglob("*sweep*"))
    assert tables
