"""The pipeline through DVC, as the README shows it, on toy parameters."""

import json
import time
from pathlib import Path

import pytest
import yaml

from tests.project import ROOT, copy_project, run, set_params, stage
from tgo_pipeline.storage.tables import read_folder, read_table

NO_OP_LIMIT_S = 60
"""Far above the few seconds of an idle machine: a test that waits for a stage to run again takes minutes."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after `dvc repro`."""
    folder = copy_project(tmp_path_factory.mktemp("dvc") / "project")
    run(folder, "dvc", "repro")
    return folder


def test_everything_is_there_and_git_sees_only_the_lock_file(project: Path):
    assert (project / "report.html").stat().st_size > 100_000
    labels, scores = read_folder(project / "data/labels"), read_folder(project / "data/scores")
    assert set(labels["sample_id"]) == set(scores["sample_id"])
    assert len(labels) == 48
    left = run(project, "git", "status", "--porcelain").stdout.split("\n")
    assert [line for line in left if line] == ["?? dvc.lock"]


def test_a_second_repro_runs_nothing(project: Path):
    start = time.monotonic()
    output = run(project, "dvc", "repro").stdout
    assert "Running stage" not in output
    assert "up to date" in output
    assert time.monotonic() - start < NO_OP_LIMIT_S


def test_metrics_and_plots_are_shown(project: Path):
    metrics = json.loads(run(project, "dvc", "metrics", "show", "--json").stdout)[""]["data"]
    assert {"metrics/threshold.json", "metrics/label.json", "metrics/evaluate.json"} <= set(metrics)
    shown = run(project, "dvc", "plots", "show", "--out", "shown").stdout
    page = Path(shown.strip().removeprefix("file://")).read_text()
    for title in ("Confidence weights", "Win rate against the base model", "Implicit accuracy", "Loss"):
        assert title in page


def test_status_says_what_is_done_and_what_a_change_makes_stale(project: Path):
    done = run(project, "tgo", "status").stdout
    assert "shards of data/scores" in done
    original = (project / "params.yaml").read_text()
    try:
        set_params(project, {"label": {"c": 1.0}})
        changed = run(project, "tgo", "status").stdout
    finally:
        (project / "params.yaml").write_text(original)
    row = next(line for line in changed.split("\n") if "label" in line)
    assert [cell.strip() for cell in row.split("│")[2:5]] == ["0", "12", "0"]


@pytest.mark.parametrize("command", [("dvc", "repro", "-f", "-s", "threshold"), ("tgo", "run", "threshold")])
def test_every_way_of_running_a_stage_gives_the_same_table(project: Path, command: tuple[str, ...]):
    before = read_table(project / "data/thresholds.parquet")
    stage(project, "threshold")
    assert read_table(project / "data/thresholds.parquet") == before
    run(project, *command)
    assert read_table(project / "data/thresholds.parquet") == before


def test_the_terminal_tables(project: Path):
    thresholds = run(project, "tgo", "thresholds").stdout
    evaluation = run(project, "tgo", "evaluation").stdout
    for name in ("hpsv2.1", "mean_z"):
        assert name in thresholds
    for name in ("oracle", "mean_z"):
        assert name in evaluation


def test_an_experiment_changes_one_parameter(project: Path):
    run(project, "dvc", "exp", "run", "-S", "threshold.percentile=0.7", "label")
    rows = read_table(project / "data/thresholds.parquet").to_pylist()
    assert {row["percentile"] for row in rows} == {0.7}
    assert yaml.safe_load((project / "params.yaml").read_text())["threshold"]["percentile"] == 0.7
    shown = json.loads(run(project, "dvc", "exp", "show", "--json").stdout)
    assert len(shown) >= 2


def test_every_stage_of_the_pipeline_has_a_file():
    from stages import STAGES

    assert tuple(yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]) == STAGES
    assert all((ROOT / "stages" / f"{name}.py").is_file() for name in STAGES)
