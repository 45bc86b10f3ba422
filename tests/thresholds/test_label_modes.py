"""The label stage with baselines other than the global tau, from score shards to label shards."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from tests.thresholds.shards import flat, params, score_frame, write_scores
from tests.thresholds.test_labels import run
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params
from tgo_pipeline.storage.shards import status
from tgo_pipeline.storage.tables import read_folder, read_metadata, read_table
from tgo_pipeline.thresholds.baseline_table import BASELINES
from tgo_pipeline.thresholds.baselines import tau_q
from tgo_pipeline.thresholds.label_stage import label_folder, plan
from tgo_pipeline.thresholds.stage import fit_folder, planned_mark
from tgo_pipeline.thresholds.table import read_thresholds, threshold_row

RNG = np.random.default_rng(1)
K, PROMPTS = 4, 30
LEVEL = np.repeat(RNG.normal(0, 2, PROMPTS), K)
SCORES = (LEVEL + RNG.normal(size=K * PROMPTS)).astype(np.float32).astype(np.float64)
BY_PROMPT = SCORES.reshape(PROMPTS, K)


def labelled(root: Path, scores: np.ndarray = SCORES, per_prompt: int = K, **sections: Any) -> pl.DataFrame:
    """Fit and label; `sections` are parameters by section."""
    write_scores(root / "scores", {"clip": scores}, per_prompt=per_prompt)
    parameters = prepared(root, **sections)
    run(root, parameters)
    return read_folder(root / "labels")


def prepared(root: Path, **sections: Any) -> Params:
    threshold = {"bootstrap": 10, **sections.pop("threshold", {})}
    parameters = params(["clip"], target={"reward": "clip"}, threshold=threshold, **sections)
    fit_folder(parameters, flat(root))
    return parameters


@pytest.mark.parametrize(
    ("threshold", "baseline"),
    [
        ({"baseline": "prompt_mean"}, BY_PROMPT.mean(1)),
        ({"baseline": "prompt_median"}, np.median(BY_PROMPT, 1)),
        ({"baseline": "prompt_soft", "beta": 0.5}, 0.5 * np.log(np.exp(BY_PROMPT / 0.5).mean(1))),
    ],
)
def test_labels_and_weights_come_from_the_distance_to_the_own_prompt(
    tmp_path: Path, threshold: dict[str, Any], baseline: np.ndarray
) -> None:
    frame = labelled(tmp_path, threshold=threshold, label={"scale": "std"})
    distance = SCORES - np.repeat(baseline, K)
    np.testing.assert_allclose(frame["relative_score"], distance, atol=1e-9)
    assert frame["label"].to_list() == (distance >= 0).astype(int).tolist()
    np.testing.assert_allclose(frame["weight"], 1 + 5 * np.abs(distance) / SCORES.std(ddof=1), rtol=1e-9)
    assert frame["score"].to_list() == SCORES.tolist()
    metrics = json.loads((tmp_path / "label.json").read_text())
    assert (metrics["baseline"], metrics["compared_with_global_tau"]) == (threshold["baseline"], 0)
    moved = (distance >= 0) != (np.median(SCORES) <= SCORES)
    assert metrics["other_than_global"] == pytest.approx(moved.mean())


def test_leave_one_out_moves_no_label_of_the_mean_and_widens_its_distances(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    own = labelled(tmp_path / "a", threshold={"baseline": "prompt_mean"})
    others = labelled(tmp_path / "b", threshold={"baseline": "prompt_mean", "leave_one_out": True})
    assert own["label"].to_list() == others["label"].to_list()
    np.testing.assert_allclose(others["relative_score"], own["relative_score"] * K / (K - 1), atol=1e-9)


def test_quantiles_are_measured_in_their_own_unit(tmp_path: Path) -> None:
    frame = labelled(tmp_path, threshold={"baseline": "prompt_quantile", "beta": 0.3}, label={"scale": "raw"})
    quantile = (BY_PROMPT.argsort(1).argsort(1).ravel() + 0.5) / K
    np.testing.assert_allclose(frame["relative_score"], quantile - tau_q(0.3), atol=1e-12)
    assert frame["label"].mean() == 0.25
    np.testing.assert_allclose(frame["weight"], 1 + 5 * np.abs(quantile - tau_q(0.3)), rtol=1e-9)
    assert frame["score"].to_list() == SCORES.tolist()  # what objectives rank and pair by


@pytest.mark.parametrize("baseline", ["prompt_mean", "prompt_quantile"])
def test_a_single_sample_is_not_positive_by_itself(tmp_path: Path, baseline: str) -> None:
    """Alone in its prompt it would be at its own mean, and so positive, however bad."""
    scores = np.array([0.0, 1.0, 2.0, 3.0, -9.0])
    options = {"beta": 0.3} if baseline == "prompt_quantile" else {}
    frame = labelled(tmp_path, scores, 4, threshold={"baseline": baseline, **options})
    assert frame["label"][4] == 0
    assert json.loads((tmp_path / "label.json").read_text())["compared_with_global_tau"] == 1
    with pytest.raises(TgoError, match="no prompt of the 5 samples has enough scores"):
        labelled(tmp_path / "alone", scores, 1, threshold={"baseline": baseline, **options})


def test_a_proxy_set_gives_prompts_their_baselines_and_the_rest_its_tau(tmp_path: Path) -> None:
    proxy = write_scores(tmp_path / "proxy", {"clip": SCORES[: 2 * K] + 1}, per_prompt=K)
    frame = labelled(tmp_path, threshold={"baseline": "prompt_mean", "source": "proxy", "proxy": str(proxy)})
    expected = np.full(PROMPTS, np.median((SCORES[: 2 * K] + 1).astype(np.float32)))
    expected[:2] = (SCORES[: 2 * K] + 1).astype(np.float32).astype(float).reshape(2, K).mean(1)
    np.testing.assert_allclose(frame["score"] - frame["relative_score"], np.repeat(expected, K), atol=1e-6)


def test_a_proxy_set_that_has_lost_its_rows_is_named(tmp_path: Path) -> None:
    proxy = write_scores(tmp_path / "proxy", {"clip": SCORES}, per_prompt=K)
    write_scores(tmp_path / "scores", {"clip": SCORES}, per_prompt=K)
    threshold = {"baseline": "prompt_mean", "source": "proxy", "proxy": str(proxy)}
    parameters = prepared(tmp_path, threshold=threshold)
    write_scores(tmp_path / "proxy", {"clip": []})
    with pytest.raises(TgoError, match="/proxy holds score shards without a single row"):
        run(tmp_path, parameters)


def test_groups_are_split_at_their_own_percentile(tmp_path: Path) -> None:
    import pyarrow as pa

    from tgo_pipeline.storage.tables import PROMPTS as SCHEMA
    from tgo_pipeline.storage.tables import write_table

    write_scores(tmp_path / "scores", {"clip": SCORES}, per_prompt=K)
    ids = score_frame({"clip": SCORES}, K)["prompt_id"].unique(maintain_order=True).to_list()
    rows = [
        {"prompt_id": key, "prompt": key, "split": "train", "source": "first" if n < 10 else "rest"}
        for n, key in enumerate(ids)
    ]
    write_table(pa.Table.from_pylist(rows, schema=SCHEMA), tmp_path / "prompts.parquet", {"fingerprint": "p"})
    parameters = params(
        ["clip"],
        target={"reward": "clip"},
        threshold={"bootstrap": 20, "baseline": "group", "group": "source", "percentile": 0.25},
    )
    fit_folder(parameters, flat(tmp_path))
    label_folder(parameters, flat(tmp_path))
    frame = read_folder(tmp_path / "labels")
    for part in (slice(0, 10 * K), slice(10 * K, None)):
        tau = np.quantile(SCORES[part], 0.25)
        np.testing.assert_allclose((frame["score"] - frame["relative_score"]).to_numpy()[part], tau)
    table = read_table(tmp_path / "baselines.parquet", BASELINES)
    assert table["key"].to_pylist() == ["first", "rest"]
    assert table["tau"].to_pylist() == pytest.approx(
        [np.quantile(SCORES[: 10 * K], 0.25), np.quantile(SCORES[10 * K :], 0.25)]
    )


def test_the_thresholds_table_says_how_the_target_is_labelled_and_stays_the_global_one(
    tmp_path: Path,
) -> None:
    labelled(tmp_path, threshold={"baseline": "prompt_soft", "beta": 0.5, "jackknife": True})
    row = threshold_row(read_thresholds(tmp_path / "thresholds.parquet"), "clip")
    assert row["tau"] == pytest.approx(np.median(SCORES))
    assert (row["baseline"], row["beta"], row["jackknife"], row["group"]) == ("prompt_soft", 0.5, True, None)
    table = read_table(tmp_path / "baselines.parquet", BASELINES)
    assert len(table) == PROMPTS
    assert read_metadata(tmp_path / "baselines.parquet") == read_metadata(tmp_path / "thresholds.parquet")


def test_another_rule_makes_thresholds_and_labels_stale_and_labels_follow_the_fitted_one(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = labelled(tmp_path, threshold={"baseline": "prompt_mean"})
    other = params(
        ["clip"], target={"reward": "clip"}, threshold={"bootstrap": 10, "baseline": "prompt_median"}
    )
    assert not planned_mark(other, flat(tmp_path)).fits(read_metadata(flat(tmp_path).thresholds))
    run(tmp_path, other)  # thresholds of another rule: theirs holds
    assert "was fitted with other parameters" in caplog.text
    assert read_folder(tmp_path / "labels").equals(before)
    prepared(tmp_path, threshold={"baseline": "prompt_median"})
    assert status(tmp_path / "labels", plan(other, flat(tmp_path))).stale == 2


def test_samples_at_their_baseline_are_counted_and_go_where_ties_go(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scores = np.array([1.0, 1.0, 5.0, 5.0, 2.0, 4.0])
    frame = labelled(tmp_path, scores, 2, threshold={"baseline": "prompt_mean"}, label={"ties": "negative"})
    assert frame["label"].to_list() == [0, 0, 0, 0, 0, 1]
    assert json.loads((tmp_path / "label.json").read_text())["at_baseline"] == 4
    assert "4 of 6 samples are exactly at their baseline: label.ties (negative)" in caplog.text


def test_one_side_alone_names_the_rule(tmp_path: Path) -> None:
    scores = np.repeat([1.0, 2.0, 3.0], 2)
    with pytest.raises(
        TgoError, match=r"6 of 6 samples are positive at each prompt's mean of clip.*6 equal tau"
    ):
        labelled(tmp_path, scores, 2, threshold={"baseline": "prompt_mean"})
