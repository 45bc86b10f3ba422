"""tau and its intervals against formulas written out, exact binomials and simulated coverage."""

from __future__ import annotations

import math
import time
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tests.thresholds.columns import column
from tgo_pipeline.thresholds import estimate
from tgo_pipeline.thresholds.streams.sorted_parts import SortedParts

FEW_VALUES = st.lists(st.integers(-3, 3).map(float), min_size=2, max_size=40)
PERCENTILES = st.floats(0.01, 0.99)


def exact_interval(ordered: np.ndarray, p: float, confidence: float) -> tuple[float | None, float | None]:
    return estimate.order_statistic_interval(SortedParts([ordered]), p, confidence)


def taus_of(values: np.ndarray, prompts: np.ndarray, p: float, **options: Any) -> np.ndarray:
    return estimate.bootstrap_taus(column(values, prompts), p, **options)


def interval_of(
    values: np.ndarray, prompts: np.ndarray, p: float, **options: Any
) -> tuple[float | None, float | None]:
    return estimate.prompt_interval(column(values, prompts), p, **options)


def quantile_by_hand(values: list[float], p: float) -> float:
    """Hyndman and Fan's type 7 from its definition."""
    ordered = sorted(values)
    position = (len(ordered) - 1) * p
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (position - below) * (ordered[above] - ordered[below])


@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=50), PERCENTILES)
def test_percentile_is_type_7(values: list[float], p: float) -> None:
    expected = quantile_by_hand(values, p)
    assert estimate.percentile(np.array(values), p) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_percentile_of_ties_is_exactly_the_tied_score() -> None:
    scores = np.array([0.1] * 7 + [0.7] * 2, np.float32).astype(np.float64)
    assert estimate.percentile(scores, 0.5) == scores[0]


def ranks_by_hand(n: int, p: Fraction, tail: Fraction) -> tuple[int, int]:
    """The definition in whole numbers: largest l with P(B < l) <= tail, smallest u with P(B >= u) <= tail."""
    mass = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
    lower = max(rank for rank in range(n + 1) if sum(mass[:rank]) <= tail)
    upper = min(rank for rank in range(n + 2) if sum(mass[rank:]) <= tail)
    return lower, upper


@pytest.mark.parametrize("n", [0, 1, 2, 3, 5, 6, 17, 60])
@pytest.mark.parametrize("p", [Fraction(1, 2), Fraction(1, 10), Fraction(9, 10), Fraction(1, 3)])
def test_ranks_are_the_exact_binomial_ones(n: int, p: Fraction) -> None:
    lower, upper = ranks_by_hand(n, p, Fraction(1, 40))
    ordered = np.arange(1, n + 1, dtype=float)
    expected = (float(lower) if lower >= 1 else None, float(upper) if upper <= n else None)
    assert exact_interval(ordered, float(p), 0.95) == expected


@pytest.mark.parametrize("n", [1, 2, 3, 4, 7, 30])
@pytest.mark.parametrize("p", [0.1, 0.25, 0.5, 0.9])
def test_few_values_have_the_interval_that_scipy_gives_them(n: int, p: float) -> None:
    values = np.sort(np.random.default_rng(n).normal(size=n))
    for confidence in (0.4, 0.6, 0.95):
        theirs = stats.quantile_test(values, q=0, p=p).confidence_interval(confidence)
        expected = tuple(None if math.isnan(end) else float(end) for end in theirs)
        assert exact_interval(values, p, confidence) == expected


def test_a_rank_whose_tail_is_exactly_the_level_counts() -> None:
    """P(B >= 1) = 0.1 for one value at p = 0.1, which is what a level of 0.8 leaves to each side."""
    assert exact_interval(np.array([7.0]), 0.1, 0.8) == (None, 7.0)


def test_one_value_is_every_percentile_of_itself_and_every_resample() -> None:
    assert [estimate.percentile(np.array([0.7]), p) for p in (0.01, 0.5, 0.99)] == [0.7] * 3
    taus = taus_of(np.array([0.7]), np.array([0]), 0.3, resamples=5, seed=0)
    assert taus.tolist() == [0.7] * 5


def test_resamples_of_two_prompts_take_three_values_as_often_as_coins_fall() -> None:
    """Both prompts once (1/2), or one of them twice (1/4 each): an interval reaches from one to the other."""
    taus = taus_of(np.array([1.0, 3.0]), np.array([0, 1]), 0.5, resamples=4000, seed=0)
    values, counts = np.unique(taus, return_counts=True)
    assert values.tolist() == [1, 2, 3]
    assert counts / 4000 == pytest.approx([0.25, 0.5, 0.25], abs=0.03)
    options = {"confidence": 0.9, "resamples": 4000, "seed": 0}
    assert interval_of(np.array([1.0, 3.0]), np.array([0, 1]), 0.5, **options) == (1, 3)


@pytest.mark.parametrize("n", [10**9, 10**10])
def test_ranks_of_billions_of_scores_are_the_normal_ones(n: int) -> None:
    p = 0.01
    half_width = 1.959964 * math.sqrt(n * p * (1 - p))
    lower, upper = estimate._ranks(n, p, 0.95)
    assert lower == pytest.approx(n * p - half_width, abs=3)
    assert upper == pytest.approx(n * p + half_width, abs=3)


def test_too_few_scores_for_an_end_have_none() -> None:
    assert exact_interval(np.arange(5.0), 0.5, 0.95) == (None, None)
    assert exact_interval(np.arange(6.0), 0.5, 0.95) == (0.0, 5.0)


@pytest.mark.parametrize("draw", ["normal", "whole numbers"])
@pytest.mark.parametrize("p", [0.5, 0.9])
def test_order_statistics_cover_the_quantile(draw: str, p: float) -> None:
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(4000, 80))
    truth = {0.5: 0.0, 0.9: 1.2815515655446004}[p]
    if draw == "whole numbers":
        samples, truth = np.round(samples), float(np.round(truth))
    low, high = estimate._ranks(80, p, 0.95)
    ordered = np.sort(samples, axis=1)
    covered = np.mean((ordered[:, low - 1] <= truth) & (truth <= ordered[:, high - 1]))
    assert covered >= 0.95 - 3 * math.sqrt(0.95 * 0.05 / 4000)


@settings(max_examples=60, deadline=None)
@given(FEW_VALUES, PERCENTILES, st.integers(1, 6), st.sampled_from([0, 8]))
def test_bootstrap_is_the_quantile_of_repeated_samples(
    values: list[float], p: float, prompts: int, window_sd: int
) -> None:
    scores = np.array(values)
    owner = np.arange(len(values)) % min(prompts, len(values))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimate, "_WINDOW_SD", window_sd)
        taus = taus_of(scores, owner, p, resamples=20, seed=3)
    rng, clusters = np.random.default_rng(3), owner.max() + 1
    for tau in taus:
        drawn = rng.integers(0, clusters, clusters)
        pooled = [value for prompt in drawn for value in scores[owner == prompt].tolist()]
        assert tau == pytest.approx(quantile_by_hand(pooled, p), abs=1e-9)


def test_bootstrap_of_independent_normal_scores_has_the_asymptotic_deviation() -> None:
    n, p = 4000, 0.7
    scores = np.random.default_rng(1).normal(size=n)
    taus = taus_of(scores, np.arange(n), p, resamples=1000, seed=0)
    density = math.exp(-(0.5244005127080407**2) / 2) / math.sqrt(2 * math.pi)
    assert taus.std() == pytest.approx(math.sqrt(p * (1 - p) / n) / density, rel=0.15)


def width(interval: tuple[float | None, float | None]) -> float:
    low, high = interval
    assert low is not None
    assert high is not None
    return high - low


def test_clustered_interval_widens_by_the_root_of_identical_samples() -> None:
    once = np.random.default_rng(2).normal(size=2000)
    prompts = np.arange(2000)
    options = {"confidence": 0.95, "resamples": 1000, "seed": 0}
    alone = interval_of(once, prompts, 0.5, **options)
    copied = interval_of(np.repeat(once, 9), np.repeat(prompts, 9), 0.5, **options)
    naive = exact_interval(np.sort(np.repeat(once, 9)), 0.5, 0.95)
    assert copied == pytest.approx(alone, abs=5e-3)
    assert width(copied) / width(naive) == pytest.approx(3, rel=0.25)


def test_clustered_interval_covers_with_correlated_samples() -> None:
    rng, hits, runs = np.random.default_rng(5), 0, 250
    prompts = np.repeat(np.arange(80), 4)
    for run in range(runs):
        scores = np.repeat(rng.normal(size=80), 4) + rng.normal(size=320)
        taus = taus_of(scores, prompts, 0.5, resamples=200, seed=run)
        low, high = np.quantile(taus, [0.05, 0.95])
        hits += bool(low <= 0 <= high)
    assert hits / runs == pytest.approx(0.9, abs=0.06)


def test_bootstrap_depends_on_the_seed_alone_and_not_on_the_order_of_rows() -> None:
    rng = np.random.default_rng(0)
    scores, prompts = rng.normal(size=300), np.repeat(np.arange(100), 3)
    shuffled = rng.permutation(300)
    first = taus_of(scores, prompts, 0.4, resamples=50, seed=1)
    again = taus_of(scores[shuffled], prompts[shuffled], 0.4, resamples=50, seed=1)
    other = taus_of(scores, prompts, 0.4, resamples=50, seed=2)
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_bootstrap_on_an_atom_collapses_to_it() -> None:
    scores = np.repeat([0.0, 1.0], [80, 20])
    interval = interval_of(scores, np.arange(100), 0.5, confidence=0.95, resamples=100, seed=0)
    assert interval == (0.0, 0.0)


def test_one_prompt_has_no_clustered_interval() -> None:
    interval = interval_of(np.arange(9.0), np.zeros(9, int), 0.5, confidence=0.95, resamples=10, seed=0)
    assert interval == (None, None)


def test_a_thousand_resamples_of_thousands_of_prompts_take_no_time() -> None:
    scores, prompts = np.random.default_rng(0).normal(size=20_000), np.repeat(np.arange(5000), 4)
    start = time.process_time()
    taus_of(scores, prompts, 0.5, resamples=1000, seed=0)
    assert time.process_time() - start < 2
