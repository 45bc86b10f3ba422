"""What every sample is compared with: each mode against a loop, own prompts or a proxy set, and the fallback."""

from __future__ import annotations

import logging
import math
import statistics
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.thresholds.shards import flat
from tests.thresholds.test_baselines import jackknife, soft
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import ThresholdParams
from tgo_pipeline.storage.tables import GENERATIONS, PROMPTS, write_table
from tgo_pipeline.storage.workspace import Workspace
from tgo_pipeline.thresholds.baselines import NOWHERE, sample_baselines, tau_q
from tgo_pipeline.thresholds.compare import compare
from tgo_pipeline.thresholds.groups import groups_fingerprint, members

BETA, TAU = 0.7, 0.25
SAMPLES = st.lists(
    st.tuples(st.integers(0, 4), st.integers(-8, 8).map(lambda x: x / 4)), min_size=1, max_size=24
)
PLAIN = {
    "prompt_mean": statistics.fmean,
    "prompt_median": statistics.median,
    "prompt_soft": lambda values: soft(values, BETA),
}
NOTHING = Workspace(Path("nowhere"))


def rule(baseline: Any, **options: Any) -> ThresholdParams:
    beta = BETA if baseline in ("prompt_soft", "prompt_quantile") else None
    group = "source" if baseline == "group" else None
    return ThresholdParams(baseline=baseline, beta=beta, group=group, **options)


def arrays(samples: list[tuple[int, float]]) -> tuple[np.ndarray, np.ndarray]:
    prompts, scores = zip(*samples, strict=True)
    return np.array(scores), np.array(prompts)


def of_prompt(samples: list[tuple[int, float]], prompt: int, without: int | None = None) -> list[float]:
    return [s for i, (p, s) in enumerate(samples) if p == prompt and i != without]


def mid_rank(value: float, among: list[float]) -> float:
    return sum((x < value) + 0.5 * (x == value) for x in among) / len(among)


@given(SAMPLES, st.sampled_from(list(PLAIN)), st.booleans())
def test_a_sample_is_compared_with_its_prompt(
    samples: list[tuple[int, float]], baseline: str, leave_one_out: bool
) -> None:
    scores, prompts = arrays(samples)
    found = sample_baselines(scores, prompts, rule(baseline, leave_one_out=leave_one_out), TAU)
    for i, (prompt, _) in enumerate(samples):
        others = of_prompt(samples, prompt, i)
        expected = PLAIN[baseline](others if leave_one_out else of_prompt(samples, prompt)) if others else TAU
        assert found.baseline[i] == pytest.approx(expected, abs=1e-12)
        assert found.fallback[i] == (not others)
    assert np.array_equal(found.measured, scores)


@given(SAMPLES, st.booleans())
def test_the_jackknife_needs_two_samples_and_one_more_without_the_own(
    samples: list[tuple[int, float]], leave_one_out: bool
) -> None:
    scores, prompts = arrays(samples)
    params = rule("prompt_soft", jackknife=True, leave_one_out=leave_one_out)
    found = sample_baselines(scores, prompts, params, TAU)
    for i, (prompt, _) in enumerate(samples):
        used = of_prompt(samples, prompt, i if leave_one_out else None)
        expected = jackknife(used, BETA) if len(used) >= 2 else TAU
        assert found.baseline[i] == pytest.approx(expected, abs=1e-9)


@given(SAMPLES)
def test_quantiles_are_compared_with_tau_q(samples: list[tuple[int, float]]) -> None:
    scores, prompts = arrays(samples)
    found = sample_baselines(scores, prompts, rule("prompt_quantile"), TAU)
    assert set(found.baseline.tolist()) == {tau_q(BETA)}
    for i, (prompt, score) in enumerate(samples):
        own = of_prompt(samples, prompt)
        expected = mid_rank(score, own if len(own) > 1 else [s for _, s in samples])
        assert found.measured[i] == pytest.approx(expected)


@given(SAMPLES, SAMPLES, st.sampled_from([*PLAIN, "prompt_quantile", "group"]))
def test_a_proxy_set_gives_the_baselines_of_its_prompts(
    samples: list[tuple[int, float]], proxy: list[tuple[int, float]], baseline: str
) -> None:
    scores, prompts = arrays(samples)
    params = rule(baseline, source="proxy", proxy="folder")
    found = sample_baselines(scores, prompts, params, TAU, arrays(proxy))
    for i, (prompt, score) in enumerate(samples):
        known = of_prompt(proxy, prompt)
        enough = len(known) >= (2 if baseline == "group" else 1)
        assert found.fallback[i] == (not enough)
        if baseline == "prompt_quantile":
            assert found.measured[i] == pytest.approx(mid_rank(score, known or [s for _, s in proxy]))
        else:
            value = PLAIN.get(baseline, statistics.median)
            assert found.baseline[i] == pytest.approx(value(known) if enough else TAU, abs=1e-12)


def test_groups_have_percentiles_and_samples_of_none_the_global_tau() -> None:
    scores = np.array([1.0, 2.0, 3.0, 10.0, 20.0, 5.0, 7.0])
    groups = np.array([0, 0, 0, 1, 1, NOWHERE, 2])
    found = sample_baselines(scores, groups, rule("group", percentile=0.5), TAU)
    assert found.baseline.tolist() == [2, 2, 2, 15, 15, TAU, TAU]
    assert found.fallback.tolist() == [False] * 5 + [True] * 2
    everywhere = sample_baselines(scores, np.full(7, NOWHERE), rule("group"), TAU)
    assert everywhere.fallback.all()


def test_the_global_rule_asks_for_no_prompt() -> None:
    found = sample_baselines(np.array([1.0, 2.0]), np.empty(0), rule("global"), TAU)
    assert (found.baseline.tolist(), found.fallback.tolist()) == ([TAU, TAU], [False, False])


def frame(prompts: str) -> pl.DataFrame:
    """One sample for each letter, which names its prompt."""
    return pl.DataFrame(
        {"sample_id": [f"{p}-{i}" for i, p in enumerate(prompts)], "prompt_id": list(prompts)}
    )


def write_sources(folder: Path) -> Workspace:
    rows = [
        {"prompt_id": key, "prompt": key, "split": "train", "source": "s" + key, "category": category}
        for key, category in (("a", "animals"), ("b", "animals"), ("c", None))
    ]
    import pyarrow as pa

    write_table(pa.Table.from_pylist(rows, schema=PROMPTS), folder / "prompts.parquet", {"fingerprint": "f"})
    drawn = [{"sample_id": f"{p}-{i}", "prompt_id": p, "model": f"m{i % 2}"} for i, p in enumerate("aabbcz")]
    (folder / "generations").mkdir()
    table = pa.Table.from_pylist(drawn, schema=GENERATIONS)
    write_table(table, folder / "generations" / "train-00000-of-00001.parquet", {})
    return flat(folder)


def test_samples_are_numbered_by_prompt_source_category_and_model(tmp_path: Path) -> None:
    sources = write_sources(tmp_path)
    found = members([frame("aabbcz"), frame("cz")], ThresholdParams(), NOTHING)
    assert (found.level, found.names.to_list()) == ("prompt", ["a", "b", "c", "z"])
    assert [numbers.tolist() for numbers in found.numbers] == [[0, 0, 1, 1, 2, 3], [2, 3]]
    by: dict[str, Any] = {
        group: members([frame("aabbcz")], ThresholdParams(baseline="group", group=group), sources)
        for group in ("source", "category", "model")
    }
    assert by["source"].numbers[0].tolist() == [0, 0, 1, 1, 2, NOWHERE]
    assert (by["category"].names.to_list(), by["category"].numbers[0].tolist()) == (
        ["animals"],
        [0, 0, 0, 0, -1, -1],
    )
    assert by["model"].numbers[0].tolist() == [0, 1] * 3
    assert by["model"].level == "model"


def test_groups_that_nothing_belongs_to_are_refused(tmp_path: Path) -> None:
    sources = write_sources(tmp_path)
    with pytest.raises(
        TgoError, match=r"threshold\.group is category, but .* names the category of none of the 2"
    ):
        members([frame("cz")], ThresholdParams(baseline="group", group="category"), sources)
    with pytest.raises(TgoError, match="does not exist"):
        members([frame("a")], ThresholdParams(baseline="group", group="category"), NOTHING)


def test_the_fingerprint_of_groups_follows_the_prompts_alone(tmp_path: Path) -> None:
    sources = write_sources(tmp_path)
    assert groups_fingerprint(ThresholdParams(baseline="group", group="source"), sources.prompts) == "f"
    assert groups_fingerprint(ThresholdParams(baseline="group", group="model"), sources.prompts) is None
    assert groups_fingerprint(ThresholdParams(), NOTHING.prompts) is None


def test_single_samples_fall_back_and_are_counted(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "tgo")
    values = np.array([1.0, 3.0, math.nan, 5.0])
    found = compare(frame("aabc"), values, rule("prompt_mean"), TAU, NOTHING)
    assert found.baseline.tolist() == [2, 2, TAU]
    assert "1 of 3 samples are compared with the global tau" in caplog.text


def test_a_rule_that_no_sample_can_follow_is_refused() -> None:
    with pytest.raises(TgoError, match=r"threshold\.baseline is prompt_mean, but no prompt of the 3 samples"):
        compare(frame("abc"), np.array([1.0, 2.0, 3.0]), rule("prompt_mean"), TAU, NOTHING)
    proxy = (frame("xx"), np.array([1.0, 2.0]))
    params = rule("prompt_mean", source="proxy", proxy="folder")
    with pytest.raises(TgoError, match="in the proxy set for a baseline of its own"):
        compare(frame("ab"), np.array([1.0, 2.0]), params, TAU, NOTHING, proxy)


def test_a_proxy_set_is_matched_by_prompt_id() -> None:
    proxy = (frame("bbc"), np.array([4.0, 6.0, math.nan]))
    params = rule("prompt_mean", source="proxy", proxy="folder")
    found = compare(frame("abc"), np.array([1.0, 2.0, 3.0]), params, TAU, NOTHING, proxy)
    assert found.baseline.tolist() == [TAU, 5, TAU]
