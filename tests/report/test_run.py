"""The facts of a run that the report states first."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.report.workspace import parameters
from tgo_pipeline.report.run import describe
from tgo_pipeline.storage.workspace import Workspace


@pytest.mark.parametrize(
    ("threshold", "said", "distance"),
    [
        ({}, "percentile 0.5 of the dataset", "|s − τ|"),
        (
            {"baseline": "prompt_mean", "leave_one_out": True},
            "prompt_mean, leave_one_out; beside it",
            "|s − b|",
        ),
        (
            {"baseline": "prompt_soft", "beta": 0.5, "jackknife": True},
            "prompt_soft, β 0.5, jackknife;",
            "|s − b|",
        ),
        ({"baseline": "prompt_quantile", "beta": 0.3}, "prompt_quantile, β 0.3;", "|q − τ_q|"),
        ({"baseline": "group", "group": "source"}, "for each source", "|s − b|"),
    ],
)
def test_weights_are_distances_to_what_samples_are_compared_with(
    threshold: dict, said: str, distance: str, tmp_path: Path
) -> None:
    facts = _facts(tmp_path, threshold=threshold)
    assert said in facts["Threshold"]
    assert f"{distance}, scale" in facts["Labels"]


def test_a_tau_of_every_epoch_is_said(tmp_path: Path) -> None:
    assert "again every epoch" not in _facts(tmp_path)["Threshold"]
    assert _facts(tmp_path, fine_tune={"reestimate": {}})["Threshold"].endswith(
        "τ estimated again every epoch"
    )


def _facts(folder: Path, **sections: object) -> dict[str, str]:
    nothing = Workspace(folder / "none")
    return dict(describe(parameters(**sections), nothing).key_facts)
