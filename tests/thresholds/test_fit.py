"""The thresholds table: what is counted, what is refused, what is noted."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from tests.thresholds.columns import fitted, scored
from tests.thresholds.shards import params, score_table
from tgo_pipeline.errors import TgoError
from tgo_pipeline.thresholds.table import THRESHOLDS

NORMAL = np.random.default_rng(0).normal(size=200)


def rows(
    scores: dict[str, Any], target: str, per_prompt: int = 2, **options: Any
) -> dict[str, dict[str, Any]]:
    sections = {"target": {"reward": target, "rewards": options.pop("target_rewards", [])}}
    chosen = params(list(scores), **sections, threshold={"bootstrap": 20, **options})
    table = fitted(scores, chosen, per_prompt)
    assert table.schema.equals(THRESHOLDS, check_metadata=True)
    return {row["reward"]: row for row in table.to_pylist()}


def test_missing_and_broken_scores_are_counted_apart_and_left_out() -> None:
    row = rows({"clip": [1.0, 2.0, None, 4.0, math.nan, math.inf, -math.inf, None, 3.0, 5.0]}, "clip")["clip"]
    assert (row["n"], row["n_null"], row["n_nonfinite"], row["n_prompts"]) == (5, 2, 3, 3)
    assert (row["tau"], row["mean"], row["minimum"], row["maximum"]) == (3, 3, 1, 5)
    assert (row["ties"], row["positive_fraction"]) == (1, 0.6)


def test_a_row_agrees_with_numpy() -> None:
    scores = NORMAL.astype(np.float32)
    row = rows({"clip": scores}, "clip", percentile=0.7)["clip"]
    exact = scores.astype(np.float64)
    assert row["tau"] == np.quantile(exact, 0.7)
    assert row["std"] == pytest.approx(exact.std(ddof=1), rel=1e-12)
    assert row["q90"] == np.quantile(exact, 0.9)
    assert row["tau_low"] < row["tau"] < row["tau_high"]
    assert row["tau_bootstrap_low"] < row["tau"] < row["tau_bootstrap_high"]
    assert row["positive_fraction"] == pytest.approx(0.3)
    assert (row["percentile"], row["confidence"], row["source"]) == (0.7, 0.95, "dataset")


def test_the_name_of_a_reward_may_be_as_long_as_a_files() -> None:
    name = "r" * 250
    chosen = params([name], score={"rewards": {name: "clip"}}, target={"reward": name})
    assert fitted({name: NORMAL}, chosen)["reward"].to_pylist() == [name]


def test_combinations_get_a_row_of_their_own() -> None:
    scores = {"clip": NORMAL, "aesthetic": NORMAL[::-1] * 10}
    found = rows(scores, "mean_z", target_rewards=["clip", "aesthetic"])
    assert list(found) == ["clip", "aesthetic", "mean_z"]
    z = (NORMAL - NORMAL.mean()) / NORMAL.std(ddof=1)
    assert found["mean_z"]["tau"] == pytest.approx(np.median((z + z[::-1]) / 2), abs=1e-5)


def test_majority_has_a_fixed_tau_without_an_interval() -> None:
    scores = {"clip": [1.0, 2.0, 3.0, 4.0], "aesthetic": [1.0, 2.0, 4.0, 3.0], "oracle": [4.0, 1.0, 2.0, 3.0]}
    row = rows(scores, "majority", target_rewards=list(scores))["majority"]
    assert row["tau"] == 0.5
    assert row["tau_low"] is None
    assert row["tau_bootstrap_high"] is None
    assert row["positive_fraction"] == 0.5


def test_a_combination_needs_every_reward_of_a_sample() -> None:
    scores = {"clip": [None, 1.0, 2.0, 3.0, 4.0], "aesthetic": [1.0, math.nan, 2.0, 3.0, 5.0]}
    row = rows(scores, "mean_rank", target_rewards=list(scores))["mean_rank"]
    assert (row["n"], row["n_null"], row["n_nonfinite"]) == (3, 1, 1)


@pytest.mark.parametrize(
    ("scores", "message"),
    [
        ([None, None, None], "clip has 0 finite scores \\(3 null, 0 NaN or infinite\\)"),
        ([None, 1.0, math.nan], "clip has 1 finite scores"),
        ([2.0, 2.0, 2.0], "clip is 2 for all 3 samples"),
    ],
)
def test_a_target_that_splits_nothing_is_refused(scores: list[float | None], message: str) -> None:
    with pytest.raises(TgoError, match=message):
        rows({"clip": scores}, "clip")
    with pytest.raises(TgoError, match=message):
        rows({"clip": scores, "oracle": [1.0, 2.0, 3.0]}, "mean_z", target_rewards=["clip", "oracle"])


def test_a_reward_beside_the_target_keeps_a_row_that_says_so(caplog: pytest.LogCaptureFixture) -> None:
    scores = {"clip": [1.0, 2.0, 3.0], "aesthetic": [None, None, 1.0], "oracle": [5.0, 5.0, 5.0]}
    found = rows(scores, "clip")
    assert found["aesthetic"]["tau"] is None
    assert found["aesthetic"]["note"] == "no tau: 1 finite scores, at least 2 are needed"
    assert found["oracle"]["tau"] == 5
    assert found["oracle"]["note"] == "constant: every score is 5"
    assert "threshold of aesthetic: no tau" in caplog.text


@pytest.mark.parametrize(
    ("scores", "percentile", "note"),
    [
        ([0.0] * 6 + [1.0] * 4, 0.5, "every score is at or above tau = 0"),
        ([0.0] * 4 + [1.0] * 6, 0.9, "no score is above tau = 1"),
        ([0.0] * 3 + [1.0] * 4 + [2.0] * 3, 0.5, "4 of 10 scores equal tau = 1"),
    ],
)
def test_win_counts_say_what_the_tie_rule_decides(scores: list[float], percentile: float, note: str) -> None:
    row = rows({"clip": scores}, "clip", percentile=percentile)["clip"]
    assert row["note"].startswith(note)
    assert row["positive_fraction"] == np.mean(np.array(scores) >= row["tau"])
    assert row["positive_fraction"] - row["ties"] / row["n"] == pytest.approx(
        np.mean(np.array(scores) > row["tau"])
    )


def test_a_missing_reward_is_named() -> None:
    chosen = params(["oracle"], target={"reward": "oracle"})
    with pytest.raises(TgoError, match="has no column 'oracle'; its columns are sample_id, prompt_id, clip"):
        scored(score_table({"clip": [1.0, 2.0]}), chosen)


def test_the_schema_describes_itself_to_datasets() -> None:
    features = json.loads(THRESHOLDS.metadata[b"huggingface"])["info"]["features"]
    assert set(features) == set(THRESHOLDS.names)
    assert THRESHOLDS.field("tau").type == pa.float64()
