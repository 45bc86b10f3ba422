"""The whole report on worlds of known truth, and its numbers against the parts they are made of."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.thresholds.columns import column, judged
from tests.thresholds.shards import flat, params, score_table, write_scores
from tests.thresholds.worlds import flips, gaussian
from tgo_pipeline.storage.shards import Mark
from tgo_pipeline.storage.tables import read_metadata
from tgo_pipeline.thresholds.adequacy.report import judge, metrics
from tgo_pipeline.thresholds.adequacy.table import (
    BASELINES,
    STATISTICS,
    AdequacyRow,
    Statistics,
    planned_mark,
    read_adequacy,
)
from tgo_pipeline.thresholds.labels import effective_sample_size, weights
from tgo_pipeline.thresholds.stage import fit_folder


def report(
    scores: dict[str, np.ndarray], per_prompt: int, target: str = "clip", **sections: Any
) -> dict[str, Statistics]:
    """Every reward's statistics, from a frame of `scores`, each (N,) in order of prompts."""
    sections.setdefault("threshold", {"bootstrap": 20})
    chosen = params(list(scores), target={"reward": target}, **sections)
    found = judged(score_table(scores, per_prompt), chosen)[1]
    return {name: Statistics(rows) for name, rows in found.items()}


def world(ratio: float, prompts: int, each: int, **sections: Any) -> Statistics:
    return report({"clip": gaussian(ratio, prompts, each)[0].ravel()}, each, **sections)["clip"]


def value(found: Statistics, statistic: str, baseline: str | None = None) -> float:
    known = next(row for row in found.all(statistic) if row.baseline == baseline).value
    assert known is not None
    return known


def test_a_homogeneous_world_is_said_to_need_one_tau() -> None:
    found = world(0.0, 600, 8)
    assert found.first("verdict").baseline == "adequate"
    assert "Use threshold.baseline: global" in (found.first("advice").note or "")
    assert value(found, "heterogeneity") < 0.05 and value(found, "ratio") < 0.03
    assert value(found, "flip_rate", "prompt_mean") == pytest.approx(
        value(found, "flip_rate_null", "prompt_mean"), abs=0.02
    )
    assert value(found, "flip_rate_corrected", "prompt_mean") < 0.05


def test_a_heterogeneous_world_is_warned_of_and_told_what_to_set() -> None:
    found = world(0.4, 600, 16)
    assert found.first("verdict").baseline == "inadequate"
    assert (found.first("advice").note or "").startswith("Use threshold.baseline: prompt_mean")
    assert value(found, "heterogeneity") == pytest.approx(flips(0.4), abs=0.02)
    assert value(found, "ratio") == pytest.approx(0.4, abs=0.05)
    assert value(found, "flip_rate_corrected", "prompt_mean") == pytest.approx(flips(0.4), abs=0.02)
    assert value(found, "flip_rate_null", "prompt_mean") < value(found, "heterogeneity")
    assert value(found, "sampling_flip_rate") < 0.1 * value(found, "heterogeneity")


def test_too_few_samples_for_thresholds_of_prompts_are_said_to_be_so() -> None:
    """R = 0.15 is inadequate, but means of 2 samples flip 25 % by chance, tau 12.7 %: as 2 (25 / 12.7)^2 = 8 would."""
    found = world(0.15, 6000, 2)
    assert found.first("verdict").baseline == "inadequate"
    assert (found.first("advice").note or "").startswith("Sample about 9 images a prompt or more")


@pytest.mark.parametrize(("prompts", "each"), [(2000, 1), (20, 8), (60, 2)])
def test_too_few_samples_are_refused(prompts: int, each: int) -> None:
    found = world(0.15, prompts, each)
    verdict = found.first("verdict")
    assert verdict.baseline == "undecided" and (verdict.note or "").startswith("Undecided")
    assert value(found, "needed_prompts") > 60
    assert (found.first("needed_prompts").at or 0) >= 2


def test_every_row_is_named_and_every_name_is_used() -> None:
    soft = report({"clip": gaussian(0.3, 100, 4)[0].ravel()}, 4, threshold={"beta": 1.0, "bootstrap": 20})
    few = world(0.15, 60, 2)
    rows = [*soft["clip"].rows, *few.rows]
    assert {row.statistic for row in rows} == set(STATISTICS)
    known = {row.baseline for row in rows if row.baseline and row.statistic != "verdict"}
    assert known == set(BASELINES)
    assert all(math.isfinite(row.value) for row in rows if row.value is not None)


def test_the_squared_error_is_variance_and_offset() -> None:
    found = world(0.3, 100, 4, threshold={"percentile": 0.8, "bootstrap": 20})
    for row in found.all("squared_error"):
        offset = next(r for r in found.all("baseline_offset", row.baseline) if r.at == row.at).value or 0
        variance = next(r for r in found.all("baseline_variance", row.baseline) if r.at == row.at).value
        assert row.value == pytest.approx((variance or 0) + offset**2)


def test_a_margin_bound_is_above_the_flips_of_its_baseline() -> None:
    found = world(0.02, 100, 32, threshold={"beta": 2.0, "bootstrap": 20})
    for row in found.all("margin_bound"):
        assert (row.value or 0) >= (found.first("flip_rate", row.baseline).value or 0)
    curve = [row.value or 0 for row in found.all("margin_curve", "prompt_mean")]
    assert min(curve) == pytest.approx(value(found, "margin_bound", "prompt_mean"))
    assert value(found, "density_bound", "prompt_mean") >= value(found, "flip_rate_corrected", "prompt_mean")


def test_the_least_weighted_distance_is_not_above_that_of_tau() -> None:
    found = world(0.3, 100, 4, threshold={"percentile": 0.7, "bootstrap": 20})
    scores = gaussian(0.3, 100, 4)[0].astype(np.float32).astype(float)
    tau = float(np.quantile(scores, 0.7))
    weight = weights(scores.ravel(), tau, 5.0, "std").reshape(scores.shape)
    means = scores.mean(1, keepdims=True)
    assert value(found, "weighted_distance", "prompt_mean") == pytest.approx(
        np.mean(weight * np.abs(tau - means))
    )
    least = found.first("weighted_distance_least", "prompt_mean")
    assert least.value == pytest.approx(min(np.mean(weight * np.abs(mean - means)) for mean in means))
    assert value(found, "weight_ess") == pytest.approx(effective_sample_size(weight.ravel()) / weight.size)


def test_a_declared_beta_is_the_targets_and_a_what_if_elsewhere() -> None:
    scores = {name: gaussian(0.2, 60, 16, seed)[0].ravel() for seed, name in enumerate(("clip", "aesthetic"))}
    found = report(scores, 16, threshold={"beta": 0.8, "bootstrap": 20})
    assert [row.at for row in found["clip"].all("soft_ess")] == [0.8]
    assert value(found["clip"], "oracle_percentile", "prompt_soft") == pytest.approx(
        0.5 * (1 + math.erf(math.sqrt(value(found["clip"], "within_variance")) / 1.6 / math.sqrt(2)))
    )
    others = list(found["aesthetic"].all("soft_ess"))
    assert len(others) == 3 and all("what if" in (row.note or "") for row in others)
    assert found["clip"].first("target").value == 1 and found["aesthetic"].first("target").value is None


def test_prompts_that_differ_in_spread_alone_differ_in_their_soft_thresholds() -> None:
    """tau* = sigma^2 / 2 beta: variance (0.375 / 2)^2 for sigmas of 0.5 and 1 in equal parts and beta = 1."""
    rng = np.random.default_rng(0)
    scores = np.repeat([0.5, 1.0], 400)[:, None] * rng.normal(size=(800, 64))
    found = report({"clip": scores.ravel()}, 64, threshold={"beta": 1.0, "bootstrap": 20})["clip"]
    assert value(found, "ratio") < 0.005
    assert value(found, "ratio", "prompt_soft") == pytest.approx((0.375 / 2) ** 2 / 0.625, rel=0.1)
    assert found.first("verdict").baseline == "adequate"


def test_few_samples_behind_a_soft_baseline_are_flagged() -> None:
    small = world(0.2, 60, 16, threshold={"beta": 0.1, "bootstrap": 20}).first("soft_ess")
    large = world(0.2, 60, 16, threshold={"beta": 2.0, "bootstrap": 20}).first("soft_ess")
    assert (small.value or 0) < 5 and (small.note or "").startswith("too few")
    assert (large.value or 0) > 10 and large.note is None


def test_the_beta_of_quantiles_is_no_beta_of_scores() -> None:
    threshold = {"baseline": "prompt_quantile", "beta": 0.1, "bootstrap": 20}
    found = world(0.2, 60, 8, threshold=threshold)
    assert found.first("flip_rate", "prompt_quantile").at == pytest.approx(
        0.1 * math.log(0.1 * math.expm1(10))
    )
    assert "what if" in (found.first("soft_ess").note or "")


def test_labels_at_other_percentiles_are_nested() -> None:
    found = world(0.3, 100, 4)
    for row in found.all("stability"):
        assert row.value == pytest.approx(abs((row.at or 0) - 0.5), abs=0.01)
    assert {row.at for row in found.all("heterogeneity_at")} == {p / 10 for p in range(1, 10)}


def test_ties_are_counted_and_leave_no_density() -> None:
    scores = np.random.default_rng(0).integers(0, 2, 400).astype(float)
    found = report({"clip": scores}, 4)["clip"]
    tau = value(found, "tau")
    assert value(found, "ties") == np.mean(scores == tau)
    assert "no density" in (found.first("density_bound").note or "")


def test_unscored_samples_and_constant_rewards_are_reported() -> None:
    clip = gaussian(0.3, 60, 4)[0].ravel()
    clip[::7] = np.nan
    scores = {"clip": clip, "aesthetic": np.full(240, 3.0), "pickscore": np.full(240, np.nan)}
    found = report(scores, 4)
    assert value(found["clip"], "samples") == np.isfinite(clip).sum()
    assert found["aesthetic"].first("verdict").baseline == "undecided"
    assert "same side" in (found["aesthetic"].first("verdict").note or "")
    assert "no tau" in (found["pickscore"].first("verdict").note or "")


def test_the_majority_has_a_tau_that_is_given() -> None:
    scores = {name: gaussian(0.3, 60, 4, seed)[0].ravel() for seed, name in enumerate(("clip", "aesthetic"))}
    found = report(scores, 4, target="majority")["majority"]
    assert found.first("sampling_flip_rate").note == "tau is given, not estimated"
    assert found.first("target").value == 1


def test_prompts_with_one_sample_count_where_they_can() -> None:
    prompts = [0, 0, 1, 1, 2, 3, 4, 5, 6]
    row = {
        "reward": "clip",
        "tau": 4.0,
        "percentile": 0.5,
        "tau_bootstrap_low": None,
        "tau_bootstrap_high": None,
    }
    made = column(np.arange(9.0), np.array(prompts))
    found = Statistics(judge(made, row, params(["clip"], target={"reward": "clip"})))
    assert value(found, "prompts") == 7 and value(found, "repeated_prompts") == 2
    assert value(found, "flip_rate", "prompt_mean") == 0.5
    assert value(found, "baseline_offset", "prompt_mean") == pytest.approx(1.5 - 4)


def test_no_share_of_the_variance_is_above_one_where_prompts_are_all_of_it() -> None:
    scores = np.repeat(np.random.default_rng(2).normal(size=50), 4)
    declared = {"bootstrap": 20, "baseline": "prompt_soft", "beta": 0.1}
    ratios = list(report({"clip": scores}, 4, threshold=declared)["clip"].all("ratio"))
    assert len(ratios) > 3
    for row in ratios:
        assert row.value == 1.0 and row.high in (None, 1.0), row


def test_the_same_scores_give_the_same_report() -> None:
    assert world(0.3, 40, 3).rows == world(0.3, 40, 3).rows


def test_the_stage_writes_the_table_beside_the_thresholds_with_plots_and_metrics(tmp_path: Path) -> None:
    write_scores(tmp_path / "scores", {"clip": gaussian(0.4, 100, 8)[0].ravel()}, per_prompt=8)
    chosen = params(["clip"], target={"reward": "clip"}, threshold={"bootstrap": 20})
    fit_folder(chosen, flat(tmp_path))
    table = read_adequacy(tmp_path / "adequacy.parquet")
    stored = read_metadata(tmp_path / "thresholds.parquet")
    mark = planned_mark(Mark(stored["fingerprint"], stored["inputs"]))
    assert read_metadata(tmp_path / "adequacy.parquet") == mark.entries()
    numbers = json.loads((tmp_path / "threshold.json").read_text())["clip"]
    assert numbers["verdict"] == "inadequate" and numbers["heterogeneity"] == pytest.approx(
        flips(0.4), abs=0.05
    )
    assert numbers.items() >= metrics(table.to_arrow())["clip"].items()
    assert {file.name for file in (tmp_path / "plots" / "adequacy").iterdir()} == {"clip.svg", "clip.vl.json"}


def test_rows_are_found_by_statistic_and_baseline() -> None:
    found = Statistics(
        [
            AdequacyRow(statistic="ratio", value=1),
            AdequacyRow(statistic="ratio", value=2, baseline="prompt_soft"),
        ]
    )
    assert found.first("ratio", "prompt_soft").value == 2
    assert found.first("nothing") == AdequacyRow(statistic="nothing")
