from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.report.workspace import Workspace
from tgo_pipeline.report import training


@pytest.mark.parametrize(
    ("metric", "panel", "side"),
    [
        ("train/loss", "Loss", ""),
        ("train/log_ratio_positive", "Log-ratio to the reference", "positive"),
        ("train/policy_error_negative", "Error of the prediction", "policy negative"),
        ("reference_error/positive", "Error of the prediction", "reference positive"),
        ("train/reward_shift", "reward shift", ""),
    ],
)
def test_metrics_find_their_panel(metric: str, panel: str, side: str) -> None:
    assert training.split_name(metric) == (panel, side)


def test_panels_hold_what_fine_tuning_logged(workspace: Workspace) -> None:
    panels = training.panels(workspace.sources.training)
    assert panels is not None
    assert [panel.title for panel in panels] == [
        "Loss",
        "Implicit accuracy",
        "Log-ratio to the reference",
        "Error of the prediction",
        "Effective batch size of the weights",
        "Gradient norm",
        "Learning rate",
    ]
    errors = next(panel for panel in panels if panel.title == "Error of the prediction")
    assert [curve.name for curve in errors.curves] == [
        "policy positive",
        "policy negative",
        "reference positive",
        "reference negative",
    ]
    assert errors.curves[0].steps == list(range(1, 79))


def test_long_trainings_are_thinned_to_means(tmp_path: Path) -> None:
    folder = tmp_path / "plots" / "metrics"
    folder.mkdir(parents=True)
    values = np.random.default_rng(0).normal(size=12_345)
    rows = "".join(f"{step}\t{value!r}\n" for step, value in enumerate(values.tolist()))
    (folder / "loss.tsv").write_text("step\tloss\n" + rows)
    panels = training.panels(tmp_path)
    assert panels is not None
    curve = panels[0].curves[0]
    assert len(curve.steps) == len(curve.values) == training.POINTS
    assert np.mean(curve.values) == pytest.approx(values.mean(), abs=1e-3)
    assert curve.values[0] == pytest.approx(values[: 12_345 // training.POINTS].mean())


def test_unfinished_and_non_finite_lines_are_left_out(tmp_path: Path) -> None:
    folder = tmp_path / "plots" / "metrics" / "train"
    folder.mkdir(parents=True)
    (folder / "loss.tsv").write_text("step\tloss\n1\t0.5\n2\tnan\n3\t0.25\n4")
    panels = training.panels(tmp_path)
    assert panels is not None
    assert panels[0].curves[0].values == [0.5, 0.25]


def test_the_last_histogram_of_log_ratios(workspace: Workspace, tmp_path: Path) -> None:
    last = training.last_log_ratios(workspace.sources.training)
    assert last is not None
    assert last.step == 78
    assert sum(n for bars in last.sides.values() for _, _, n in bars) == 64
    assert training.last_log_ratios(tmp_path) is None
    assert training.panels(tmp_path) is None
