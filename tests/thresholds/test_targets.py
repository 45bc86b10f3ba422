"""Combined targets against their formulas, and the reading of score folders."""

from __future__ import annotations

import math
import statistics
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.thresholds.shards import score_frame, write_scores
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import ThresholdParams
from tgo_pipeline.thresholds.targets import (
    combine,
    mid_ranks,
    read_scores,
    reference_folder,
    scores_fingerprint,
    target_scores,
)

VALUES = st.lists(st.integers(-4, 4).map(float), min_size=2, max_size=12)
SPREAD = VALUES.filter(lambda values: min(values) < max(values))


@given(VALUES, SPREAD, SPREAD)
def test_mean_z_is_the_mean_of_standard_scores(
    values: list[float], first: list[float], second: list[float]
) -> None:
    scores = {"a": np.array(values), "b": np.array(values)[::-1]}
    found = combine(scores, "mean_z", {"a": np.array(first), "b": np.array(second)})
    expected = [
        (
            (a - statistics.fmean(first)) / statistics.stdev(first)
            + (b - statistics.fmean(second)) / statistics.stdev(second)
        )
        / 2
        for a, b in zip(values, values[::-1], strict=True)
    ]
    assert found == pytest.approx(expected)


@given(VALUES, VALUES)
def test_mid_ranks_count_ties_half(values: list[float], reference: list[float]) -> None:
    expected = [sum((x < v) + 0.5 * (x == v) for x in reference) / len(reference) for v in values]
    assert mid_ranks(np.array(values), np.sort(reference)).tolist() == pytest.approx(expected)
    found = combine({"a": np.array(values)}, "mean_rank", {"a": np.array(reference)})
    assert found == pytest.approx(expected)


def test_majority_is_the_share_at_or_above_tau() -> None:
    scores = {"a": np.array([1.0, 2.0, 3.0]), "b": np.array([1.0, 1.0, 5.0])}
    assert combine(scores, "majority", scores, {"a": 2.0, "b": 1.0}).tolist() == [0.5, 1.0, 1.0]


@pytest.mark.parametrize("kind", ["mean_z", "mean_rank", "majority"])
def test_one_missing_reward_makes_the_target_missing(kind: str) -> None:
    scores = {"a": np.array([math.nan, 1.0, 2.0, 3.0]), "b": np.array([1.0, math.inf, 2.0, 4.0])}
    combined = combine(scores, kind, scores, {"a": 2.0, "b": 2.0})
    assert np.isnan(combined).tolist() == [True, True, False, False]


def test_a_combination_is_monotone_and_free_of_scale() -> None:
    rng = np.random.default_rng(0)
    scores = {"a": rng.normal(size=50), "b": rng.normal(size=50)}
    moved = {"a": 100 * scores["a"] + 7, "b": 0.01 * scores["b"]}
    for kind in ("mean_z", "mean_rank"):
        assert combine(scores, kind, scores) == pytest.approx(combine(moved, kind, moved))


@pytest.mark.parametrize(
    ("kind", "reference", "message"),
    [
        ("median", [1.0, 2.0], "one of mean_z, mean_rank, majority"),
        ("mean_z", [2.0, 2.0], "a is 2 for all 2 samples"),
        ("mean_z", [math.nan, 2.0], "needs at least 2 finite scores of a, the reference has 1"),
        ("majority", [1.0, 2.0], "needs the tau of a"),
    ],
)
def test_what_cannot_be_combined_is_refused(kind: str, reference: list[float], message: str) -> None:
    with pytest.raises(TgoError, match=message):
        combine({"a": np.array([1.0])}, kind, {"a": np.array(reference)})


def test_no_rewards_make_no_target() -> None:
    with pytest.raises(TgoError, match="combines no reward"):
        combine({}, "mean_z", {})


def test_a_single_reward_is_its_own_target() -> None:
    frame = score_frame({"clip": [1.0, None, math.inf, 4.0]})
    found = target_scores(frame, "clip", ["clip"], frame)
    assert found.dtype == np.float64
    assert np.array_equal(found, [1.0, math.nan, math.nan, 4.0], equal_nan=True)


def test_new_samples_are_measured_against_the_reference() -> None:
    training, tuned = score_frame({"clip": [0.0, 2.0]}), score_frame({"clip": [5.0]})
    assert target_scores(tuned, "mean_z", ["clip"], training).tolist() == pytest.approx([4 / math.sqrt(2)])


def test_a_folder_is_read_in_the_order_of_its_shards(tmp_path: Path) -> None:
    write_scores(tmp_path, {"clip": [1.0, 2.0, None, 4.0, 5.0], "oracle": [0.0] * 5}, shards=3)
    frame = read_scores(tmp_path, ["clip"])
    assert frame.columns == ["sample_id", "prompt_id", "clip"]
    assert frame["clip"].to_list() == [1, 2, None, 4, 5]


def test_folders_that_cannot_be_read_say_why(tmp_path: Path) -> None:
    with pytest.raises(TgoError, match="holds no score shard"):
        read_scores(tmp_path, ["clip"])
    write_scores(tmp_path, {"clip": []})
    with pytest.raises(TgoError, match="without a single row"):
        read_scores(tmp_path, ["clip"])
    with pytest.raises(TgoError, match="no column 'oracle'"):
        read_scores(tmp_path, ["oracle"])


def test_an_unfinished_folder_is_refused_and_temporaries_are_not_read(tmp_path: Path) -> None:
    write_scores(tmp_path, {"clip": [1.0, 2.0, 3.0]}, shards=3)
    (tmp_path / ".tmp-1-train-00000-of-00003.parquet").write_bytes(b"half")
    assert read_scores(tmp_path, ["clip"])["clip"].to_list() == [1, 2, 3]
    (tmp_path / "train-00001-of-00003.parquet").unlink()
    with pytest.raises(TgoError, match="holds 2 of 3 train shards: finish the score stage"):
        read_scores(tmp_path, ["clip"])


def test_a_proxy_file_may_have_any_name(tmp_path: Path) -> None:
    write_scores(tmp_path, {"clip": [1.0, 2.0]}, shards=1)
    (tmp_path / "train-00000-of-00001.parquet").rename(tmp_path / "reference.parquet")
    assert read_scores(tmp_path, ["clip"]).height == 2


def test_the_fingerprint_of_scores_follows_their_shards(tmp_path: Path) -> None:
    first = scores_fingerprint(write_scores(tmp_path, {"clip": [1.0, 2.0]}))
    assert scores_fingerprint(write_scores(tmp_path, {"clip": [1.0, 2.0]})) == first
    assert scores_fingerprint(write_scores(tmp_path, {"clip": [1.0, 2.0]}, fingerprint="b")) != first


def test_the_reference_is_the_data_set_or_the_proxy(tmp_path: Path) -> None:
    assert reference_folder(ThresholdParams(), tmp_path) == tmp_path
    proxy = ThresholdParams(source="proxy", proxy=str(tmp_path))
    assert reference_folder(proxy, tmp_path / "scores") == tmp_path
