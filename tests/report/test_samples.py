from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.report.workspace import REWARDS, Workspace
from tgo_pipeline.report.gallery import samples
from tgo_pipeline.report.gallery.samples import Candidates, candidates, model_folders
from tgo_pipeline.storage import tables


@pytest.fixture(scope="module")
def found(workspace: Workspace) -> Candidates:
    made = candidates(workspace.params, workspace.sources)
    assert made is not None
    return made


def test_all_samples_are_there_in_the_order_of_the_run(found: Candidates, workspace: Workspace) -> None:
    assert found.total == found.frame.height == 192 + 3 * 48
    assert found.rewards == ["mean_z", *REWARDS, "oracle"]
    assert found.frame["model"].unique(maintain_order=True).to_list() == ["", "base", "tuned", "early"]
    ids = tables.read_folder(workspace.sources.scores, ["sample_id"])["sample_id"]
    assert found.frame["sample_id"].head(192).equals(ids)


def test_training_samples_carry_scores_labels_and_errors(found: Candidates, workspace: Workspace) -> None:
    training = found.frame.filter(pl.col("split") == "training")
    labels = tables.read_folder(workspace.sources.labels)
    both = training.join(labels, on="sample_id", suffix="_true")
    assert both.height == 191
    for name in ("label", "weight", "relative_score"):
        assert both[name].equals(both[f"{name}_true"], check_names=False)
    assert both["mean_z"].equals(both["score"], check_names=False)
    failed = training.filter(pl.col("error").is_not_null())
    assert failed["error"].to_list() == ["OSError: image file is truncated"]
    assert failed["label"].to_list() == failed["mean_z"].to_list() == [None]


def test_test_samples_carry_their_set_and_the_target_where_it_is_known(
    found: Candidates, workspace: Workspace
) -> None:
    truth = pl.read_parquet(workspace.sources.samples).filter(pl.col("reward") == "mean_z")
    for side in ("base", "tuned"):
        rows = found.frame.filter(pl.col("model") == side).join(truth, on="sample_id", maintain_order="left")
        assert rows["split"].equals(rows["test_set"], check_names=False)
        assert rows["mean_z"].equals(rows[side], check_names=False)


def test_the_target_of_a_further_model_is_combined_as_the_evaluation_does(
    found: Candidates, workspace: Workspace
) -> None:
    """mean_z: the mean over the rewards of (s - mean) / std, both of the training scores."""
    early = found.frame.filter(pl.col("model") == "early")
    training = tables.read_folder(workspace.sources.scores).drop_nulls(list(REWARDS))
    parts = [(early[name] - training[name].mean()) / training[name].std() for name in REWARDS]
    assert np.allclose(early["mean_z"], np.mean([part.to_numpy() for part in parts], axis=0), atol=1e-6)


def test_disagreement_is_the_spread_of_percentile_ranks(found: Candidates) -> None:
    training = found.frame.filter((pl.col("split") == "training") & pl.col("clip").is_not_null())
    values = training.select(list(REWARDS)).to_numpy()
    ranks = (values[:, None, :] > values[None, :, :]).sum(axis=1) + 0.5  # no two scores are equal
    assert np.allclose(training["disagreement"], (ranks / len(values)).std(axis=1))
    assert found.frame.filter(pl.col("error").is_not_null())["disagreement"].to_list() == [None]


def test_of_many_samples_the_extremes_and_a_stride_are_looked_at(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(samples, "CANDIDATES", 40)
    report = dataclasses.replace(workspace.params.report, gallery=6)
    made = candidates(dataclasses.replace(workspace.params, report=report), workspace.sources)
    assert made is not None
    training = made.frame.filter(pl.col("split") == "training")
    assert made.total == 336
    assert 40 < training.height < 60
    scores = np.sort(tables.read_folder(workspace.sources.labels)["score"].to_numpy())
    kept = np.sort(training["mean_z"].drop_nulls().to_numpy())
    assert np.array_equal(kept[:6], scores[:6]) and np.array_equal(kept[-6:], scores[-6:])


def test_nothing_scored_is_nothing_to_show(workspace: Workspace, tmp_path: Path) -> None:
    sources = workspace.sources.moved(scores=tmp_path, evaluation_images=tmp_path)
    assert candidates(workspace.params, sources) is None
    assert model_folders(workspace.params, sources) == {}


def test_training_samples_are_shown_before_they_are_labelled(workspace: Workspace, tmp_path: Path) -> None:
    sources = workspace.sources.moved(labels=tmp_path, evaluation_images=tmp_path)
    made = candidates(workspace.params, sources)
    assert made is not None
    assert made.rewards == list(REWARDS)
    assert made.frame.height == 192
