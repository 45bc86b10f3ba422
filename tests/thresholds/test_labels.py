"""Labels and weights against the paper's formulas, and label shards from score shards."""

from __future__ import annotations

import json
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.rewriting import shown
from tests.thresholds.shards import flat, params, write_scores
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params
from tgo_pipeline.storage.shards import Status, status
from tgo_pipeline.storage.tables import LABELS, read_folder, read_metadata, read_table
from tgo_pipeline.thresholds.label_stage import label_folder, plan
from tgo_pipeline.thresholds.labels import effective_sample_size, labels, weights
from tgo_pipeline.thresholds.stage import fit_folder

SCORES = st.lists(st.floats(-1e4, 1e4, width=32), min_size=1, max_size=30)
SPREAD = st.lists(st.integers(-9, 9).map(float), min_size=3, max_size=30).filter(lambda v: min(v) < max(v))


@given(SCORES, st.floats(-1e4, 1e4), st.floats(0, 50))
def test_labels_and_raw_weights_are_the_papers(scores: list[float], tau: float, c: float) -> None:
    values = np.array(scores)
    assert labels(values, tau).tolist() == [1 if s >= tau else 0 for s in scores]
    assert weights(values, tau, c).tolist() == pytest.approx([1 + c * abs(s - tau) for s in scores])


def test_the_tie_rule_moves_the_ties_alone() -> None:
    scores = np.array([0.0, 1.0, 1.0, 2.0])
    assert labels(scores, 1.0, "positive").tolist() == [0, 1, 1, 1]
    assert labels(scores, 1.0, "negative").tolist() == [0, 0, 0, 1]
    assert labels(scores, 1.0).dtype == np.int8


@given(SPREAD, st.integers(-9, 9))
def test_scaled_weights_are_distances_in_their_unit(scores: list[float], tau: float) -> None:
    values = np.array(scores)
    std = statistics.stdev(scores)
    assert weights(values, tau, 5.0, "std") == pytest.approx([1 + 5 * abs(s - tau) / std for s in scores])

    def rank(value: float) -> float:
        return sum((x < value) + 0.5 * (x == value) for x in scores) / len(scores)

    expected = [1 + 5 * abs(rank(s) - rank(tau)) for s in scores]
    assert weights(values, tau, 5.0, "rank") == pytest.approx(expected)
    mad = statistics.median(abs(s - statistics.median(scores)) for s in scores)
    if mad:
        expected = [1 + 5 * abs(s - tau) / (1.4826 * mad) for s in scores]
        assert weights(values, tau, 5.0, "mad") == pytest.approx(expected)
    else:
        with pytest.raises(TgoError, match=r"label\.scale is mad"):
            weights(values, tau, 5.0, "mad")


@given(SPREAD, st.floats(0.1, 100), st.floats(-100, 100))
def test_std_weights_do_not_depend_on_the_unit_of_the_score(
    scores: list[float], unit: float, shift: float
) -> None:
    values = np.array(scores)
    moved = weights(unit * values + shift, unit * 0.5 + shift, 5.0, "std")
    assert moved == pytest.approx(weights(values, 0.5, 5.0, "std"))


@pytest.mark.parametrize(
    ("scale", "mean_distance"), [("std", math.sqrt(2 / math.pi)), ("mad", None), ("rank", 0.25)]
)
def test_weights_of_normal_scores_at_their_median(scale: Any, mean_distance: float | None) -> None:
    """E|s - tau| is sqrt(2/pi) standard deviations, E|F(s) - 1/2| is 1/4, and the scaled MAD is the std."""
    scores = np.random.default_rng(0).normal(0.25, 0.03, size=200_000)
    expected = 1 + 5 * (mean_distance or math.sqrt(2 / math.pi))
    assert weights(scores, 0.25, 5.0, scale).mean() == pytest.approx(expected, rel=0.01)
    assert weights(scores, 0.25, 5.0, "raw").mean() == pytest.approx(1.12, abs=0.01)


def test_the_unit_comes_from_the_reference() -> None:
    assert weights(np.array([3.0]), 1.0, 1.0, "std", np.array([0.0, 2.0])).tolist() == [1 + 2 / math.sqrt(2)]
    assert weights(np.array([3.0]), 1.0, 1.0, "rank", np.array([0.0, 2.0])).tolist() == [1.5]


def test_without_c_every_weight_is_one_whatever_the_unit() -> None:
    assert weights(np.full(3, 2.0), 2.0, 0.0, "std").tolist() == [1, 1, 1]


def test_a_unit_of_zero_is_refused() -> None:
    with pytest.raises(TgoError, match="2 for all 3 samples"):
        weights(np.full(3, 2.0), 2.0, 5.0, "std")
    with pytest.raises(TgoError, match="median absolute deviation is 0"):
        weights(np.array([0.0, 0.0, 0.0, 1.0]), 0.0, 5.0, "mad")


def test_scores_that_are_no_numbers_are_refused() -> None:
    for function in (lambda s: labels(s, 0.0), lambda s: weights(s, 0.0, 5.0)):
        with pytest.raises(TgoError, match="2 of 3 scores are NaN or infinite"):
            function(np.array([1.0, math.nan, math.inf]))


@given(st.lists(st.floats(1, 1e6), min_size=1, max_size=40))
def test_effective_sample_size_is_kishs(values: list[float]) -> None:
    found = effective_sample_size(np.array(values))
    assert found == pytest.approx(sum(values) ** 2 / sum(v * v for v in values))
    assert 1 - 1e-9 <= found <= len(values) + 1e-9


def test_effective_sample_size_at_its_ends() -> None:
    assert effective_sample_size(np.ones(10)) == 10
    assert effective_sample_size(np.array([1e200, 1.0])) == 1
    assert effective_sample_size(np.array([])) == 0


RAW = [1.0, 5.0, None, 2.0, 8.0, 3.0, math.nan, 6.0]


def prepare(root: Path, rewards: dict[str, Any] | None = None, **sections: Any) -> Params:
    scores = rewards or {"clip": RAW}
    write_scores(root / "scores", scores, per_prompt=2)
    sections = {"target": {"reward": "clip"}, "threshold": {"bootstrap": 10}, **sections}
    parameters = params(list(scores), **sections)
    fit_folder(parameters, flat(root))
    return parameters


def run(root: Path, parameters: Params) -> Status:
    return label_folder(parameters, flat(root))


def test_every_score_shard_gets_a_label_shard(tmp_path: Path) -> None:
    done = run(tmp_path, prepare(tmp_path, label={"scale": "raw"}))
    assert done == Status(2, 0, 0, 2)
    names = shown(tmp_path / "labels")
    assert names == shown(tmp_path / "scores")
    frame = read_folder(tmp_path / "labels")
    known = [s for s in RAW if s is not None and not math.isnan(s)]
    assert read_table(tmp_path / "labels" / names[0]).schema.names == LABELS.names
    assert frame["score"].to_list() == known
    tau = statistics.median(known)
    assert frame["relative_score"].to_list() == [s - tau for s in known]
    assert frame["label"].to_list() == [int(s >= tau) for s in known]
    assert frame["weight"].to_list() == pytest.approx([1 + 5 * abs(s - tau) for s in known])
    assert frame["sample_id"].to_list() == [
        f"prompt{i // 2:06d}-{i % 2:04d}" for i in range(8) if i not in (2, 6)
    ]
    assert frame["reward"].unique().to_list() == ["clip"]


def test_the_metrics_count_and_weigh(tmp_path: Path) -> None:
    run(tmp_path, prepare(tmp_path))
    metrics = json.loads((tmp_path / "label.json").read_text())
    frame = read_folder(tmp_path / "labels")
    weight = frame["weight"].to_numpy()
    assert (metrics["samples"], metrics["labelled"], metrics["unscored"], metrics["positive"]) == (8, 6, 2, 3)
    assert metrics["effective_sample_size"] == pytest.approx(weight.sum() ** 2 / (weight**2).sum())
    assert metrics["weight_max"] == weight.max()
    positive = frame.filter(pl.col("label") == 1)["weight"].sum()
    assert metrics["positive_weight_share"] == pytest.approx(positive / weight.sum())
    bars = pl.read_csv(tmp_path / "plots" / "weights.csv")
    assert bars["count"].sum() == 6
    assert bars.filter(pl.col("label") == "positive")["count"].sum() == 3


def test_label_shards_open_in_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    run(tmp_path, prepare(tmp_path))
    files = [str(file) for file in sorted((tmp_path / "labels").glob("*.parquet"))]
    rows = datasets.load_dataset(
        "parquet", data_files=files, split="train", cache_dir=str(tmp_path / "cache")
    )
    assert rows.features["label"].names == ["negative", "positive"]
    assert len(rows) == 6


def test_a_shard_without_a_scored_sample_is_an_empty_one(tmp_path: Path) -> None:
    run(tmp_path, prepare(tmp_path, {"clip": [None, None, None, 1.0, 2.0, 3.0]}))
    first = tmp_path / "labels" / "train-00000-of-00002.parquet"
    assert read_table(first, schema=LABELS).num_rows == 0
    assert read_metadata(first)["failed"] == 3


def test_the_plan_follows_scores_thresholds_and_parameters(tmp_path: Path) -> None:
    parameters = prepare(tmp_path)
    run(tmp_path, parameters)
    assert status(tmp_path / "labels", plan(parameters, flat(tmp_path))).done == 2
    other = params(["clip"], target={"reward": "clip"}, label={"c": 1.0})
    assert status(tmp_path / "labels", plan(other, flat(tmp_path))).stale == 2
    prepare(tmp_path, threshold={"bootstrap": 10, "percentile": 0.7})
    assert status(tmp_path / "labels", plan(parameters, flat(tmp_path))).stale == 2


def test_a_lost_shard_comes_back_the_same(tmp_path: Path) -> None:
    parameters = prepare(tmp_path)
    run(tmp_path, parameters)
    shards = sorted((tmp_path / "labels").glob("*.parquet"))
    before = [shard.read_bytes() for shard in shards]
    shards[1].unlink()
    run(tmp_path, parameters)
    assert [shard.read_bytes() for shard in shards] == before


def test_combined_targets_are_labelled_at_their_own_tau(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    rewards = {name: rng.normal(size=41).astype(np.float32) for name in ("clip", "aesthetic", "oracle")}
    found = {}
    for combination in ("mean_z", "mean_rank", "majority"):
        run(tmp_path, prepare(tmp_path, rewards, target={"reward": combination}))
        found[combination] = read_folder(tmp_path / "labels")["label"]
    votes = np.sum([values >= np.median(values) for values in rewards.values()], axis=0)
    assert found["majority"].to_list() == (votes >= 2).tolist()
    assert found["mean_z"].sum() == 21
    assert found["mean_rank"].sum() >= 21


def test_labels_with_a_proxy_threshold_measure_in_its_units(tmp_path: Path) -> None:
    proxy = write_scores(tmp_path / "proxy", {"clip": [0.0, 2.0, 4.0]})
    parameters = prepare(
        tmp_path,
        {"clip": [0.0, 2.0, 6.0]},
        target={"reward": "mean_z"},
        threshold={"source": "proxy", "proxy": str(proxy), "bootstrap": 10},
    )
    run(tmp_path, parameters)
    frame = read_folder(tmp_path / "labels")
    assert frame["score"].to_list() == [-1, 0, 2]
    assert frame["label"].to_list() == [0, 1, 1]


@pytest.mark.parametrize("scores", [[0.0] * 6 + [1.0] * 4, [0.0, 0.0, 1.0]])
def test_one_side_alone_is_refused_before_anything_is_written(tmp_path: Path, scores: list[float]) -> None:
    parameters = prepare(tmp_path, {"clip": scores})
    with pytest.raises(
        TgoError, match=r"samples are positive at clip tau = 0 .* equal tau, label\.ties is positive"
    ):
        run(tmp_path, parameters)
    assert not (tmp_path / "labels").exists()
    assert not (tmp_path / "label.json").exists()
    run(tmp_path, prepare(tmp_path, {"clip": scores}, label={"ties": "negative"}))
    assert read_folder(tmp_path / "labels")["label"].sum() == sum(s > 0 for s in scores)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    parameters = params(["clip"], target={"reward": "clip"})
    with pytest.raises(TgoError, match=r"thresholds\.parquet does not exist: run the threshold stage"):
        run(tmp_path, parameters)
    prepare(tmp_path, {"clip": RAW, "oracle": [1.0] * 8})
    with pytest.raises(TgoError, match="no row for 'mean_z'"):
        run(tmp_path, params(["clip", "oracle"], target={"reward": "mean_z"}))


def test_thresholds_of_other_scores_are_announced(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    parameters = prepare(tmp_path)
    write_scores(tmp_path / "scores", {"clip": RAW}, per_prompt=2, fingerprint="b")
    run(tmp_path, parameters)
    assert "was fitted on other scores" in caplog.text


def test_many_scores_are_labelled_in_no_time() -> None:
    scores = np.random.default_rng(0).normal(size=500_000)
    for scale in ("raw", "std", "mad", "rank"):
        assert weights(scores, 0.0, 5.0, scale).size == labels(scores, 0.0).size
    assert effective_sample_size(weights(scores, 0.0, 5.0, "std")) > 250_000
