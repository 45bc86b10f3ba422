"""Metrics of a batch, and a log that continues without repeating or losing a step."""

from __future__ import annotations

import csv
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from fine_tune.training.log import TrainingLog, Written, image_path, rewind, summarise
from tgo_pipeline.errors import TgoError


def write(folder: Path, first: int, last: int) -> None:
    log = TrainingLog(folder, first - 1)
    for step in range(first, last + 1):
        log.metrics(step, {"loss": step / 2, "accuracy": 1.0})
        log.histogram(step, np.array([-1.0, 0.5, 2.0]), np.array([0, 1, 1]))


def steps(path: Path) -> list[int]:
    with path.open() as stream:
        rows = list(csv.DictReader(stream, delimiter="\t" if path.suffix == ".tsv" else ","))
    return [int(row["step"]) for row in rows]


def test_a_log_continued_equals_one_written_at_once(tmp_path: Path) -> None:
    write(tmp_path / "whole", 1, 9)
    write(tmp_path / "broken", 1, 7)
    loss = tmp_path / "broken/plots/metrics/train/loss.tsv"
    loss.write_text(loss.read_text() + "8\t4")  # a process was killed while it wrote
    write(tmp_path / "broken", 5, 9)  # its checkpoint was of step 4
    for name in (
        "plots/metrics/train/loss.tsv",
        "plots/metrics/train/accuracy.tsv",
        "log_ratios.csv",
        "metrics.json",
    ):
        assert (tmp_path / "broken" / name).read_text() == (tmp_path / "whole" / name).read_text()
    assert steps(loss) == list(range(1, 10))
    assert json.loads((tmp_path / "broken/metrics.json").read_text())["train"]["loss"] == 4.5


def test_a_git_repository_without_a_commit_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """dvclive would end the training with a traceback."""
    monkeypatch.chdir(tmp_path)
    subprocess.run(["git", "init", "-q"], check=True)
    with pytest.raises(TgoError, match=r"cannot open the log .*Empty git repo.*git commit"):
        TrainingLog(tmp_path / "training", 0)


@pytest.mark.parametrize("left", ["", '{"train": {"lo'])
def test_a_summary_or_series_that_a_kill_left_unfinished_is_written_again(tmp_path: Path, left: str) -> None:
    write(tmp_path / "whole", 1, 9)
    write(tmp_path / "broken", 1, 4)
    (tmp_path / "broken/metrics.json").write_text(left)
    late = tmp_path / "broken/plots/metrics/train/late.tsv"
    late.write_text(left)
    write(tmp_path / "broken", 5, 9)
    whole, broken = ((tmp_path / name / "metrics.json").read_text() for name in ("whole", "broken"))
    assert broken == whole
    assert not late.exists()


def test_a_new_training_starts_an_empty_log(tmp_path: Path) -> None:
    write(tmp_path, 1, 5)
    (tmp_path / "images").mkdir()
    write(tmp_path, 1, 2)
    assert steps(tmp_path / "plots/metrics/train/loss.tsv") == [1, 2]
    assert set(steps(tmp_path / "log_ratios.csv")) == {1, 2}
    assert not (tmp_path / "images").exists()


def test_images_after_the_checkpoint_go_and_earlier_ones_stay(tmp_path: Path) -> None:
    write(tmp_path, 1, 7)
    for step in (0, 4, 6):
        image_path(tmp_path, step).parent.mkdir(exist_ok=True)
        image_path(tmp_path, step).touch()
    write(tmp_path, 5, 5)
    assert sorted(Written(tmp_path).images()) == [0, 4]


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    write(tmp_path, 1, 3)
    assert list(Written(tmp_path).rows()) == [
        (step, {"train/loss": step / 2, "train/accuracy": 1.0}) for step in (1, 2, 3)
    ]


def test_rewinding_nothing_is_no_error(tmp_path: Path) -> None:
    rewind(tmp_path / "none", 0)
    rewind(tmp_path / "none", 3)


def test_the_histogram_counts_each_side(tmp_path: Path) -> None:
    log_ratio = np.random.default_rng(0).normal(size=200)
    label = np.arange(200) % 4 == 0
    TrainingLog(tmp_path, 0).histogram(3, log_ratio, label.astype(int))
    with (tmp_path / "log_ratios.csv").open() as stream:
        rows = list(csv.DictReader(stream))
    counts = {
        side: sum(int(r["count"]) for r in rows if r["side"] == side) for side in ("negative", "positive")
    }
    assert counts == {"negative": 150, "positive": 50}
    first = next(row for row in rows if row["side"] == "positive")
    low, high = float(first["low"]), float(first["high"])
    assert low == pytest.approx(log_ratio.min()) and high > low
    assert int(first["count"]) == ((log_ratio[label] >= low) & (log_ratio[label] < high)).sum()


def test_metrics_are_means_and_means_of_each_side() -> None:
    values = {"accuracy": np.array([1.0, 2.0, 6.0]), "log_ratio": np.array([-1.0, 1.0, 3.0])}
    metrics = summarise(values, np.array([0, 1, 1]), np.array([1.0, 2.0, 3.0], np.float32))
    assert metrics == {
        "accuracy": 3.0,
        "log_ratio_negative": -1.0,
        "log_ratio_positive": 2.0,
        "weight_ess": pytest.approx(36 / 14),
    }


def test_a_side_without_samples_is_left_out() -> None:
    metrics = summarise({"log_ratio": np.array([2.0])}, np.array([1]), np.array([0.0]))
    assert metrics == {"log_ratio_positive": 2.0, "weight_ess": 0.0}
