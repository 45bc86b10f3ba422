"""Moments, variance components and flip rates against formulas written out and Gaussian closed forms."""

from __future__ import annotations

import math
import statistics

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.thresholds.columns import column
from tgo_pipeline.thresholds.moments import flip_rates, moments, variance_components
from tgo_pipeline.thresholds.streams.column import ScoreColumn

GROUPED = st.lists(st.tuples(st.integers(0, 4), st.integers(-8, 8)), min_size=2, max_size=40)


def by_prompt(samples: list[tuple[int, int]]) -> list[list[float]]:
    groups: dict[int, list[float]] = {}
    for prompt, score in samples:
        groups.setdefault(prompt, []).append(float(score))
    return list(groups.values())


def grouped(samples: list[tuple[int, int]]) -> ScoreColumn:
    prompts, scores = zip(*samples, strict=True)
    return column(np.array(scores, float), np.array(prompts))


def alone(scores: np.ndarray) -> ScoreColumn:
    """Every score of a prompt of its own."""
    return column(scores, np.arange(scores.size))


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=60).filter(lambda v: min(v) < max(v)))
def test_moments_are_the_textbook_ones(values: list[int]) -> None:
    found = moments(alone(np.array(values, float)))
    mean = statistics.fmean(values)
    central = {k: statistics.fmean((value - mean) ** k for value in values) for k in (2, 3, 4)}
    assert found["mean"] == pytest.approx(mean)
    assert found["std"] == pytest.approx(statistics.stdev(values))
    assert found["skewness"] == pytest.approx(central[3] / central[2] ** 1.5, abs=1e-9)
    assert found["kurtosis"] == pytest.approx(central[4] / central[2] ** 2 - 3, abs=1e-9)
    assert found["q50"] == statistics.median(values)
    assert (found["minimum"], found["maximum"]) == (min(values), max(values))


def test_moments_of_normal_scores() -> None:
    found = moments(alone(np.random.default_rng(0).normal(3, 2, size=400_000)))
    assert (found["mean"], found["std"]) == pytest.approx((3, 2), abs=0.02)
    assert (found["skewness"], found["kurtosis"]) == pytest.approx((0, 0), abs=0.03)
    assert (found["q05"], found["q95"]) == pytest.approx((3 - 3.2897, 3 + 3.2897), abs=0.03)


@pytest.mark.parametrize("values", [[1.0, 2.0], [1.0, 2.0, 4.0], [0.0, 0.0, 1.0], [-1.0, 0.5, 0.5, 9.0]])
def test_moments_of_very_few_scores_are_scipys(values: list[float]) -> None:
    found, theirs = moments(alone(np.array(values))), stats.describe(values)
    assert (found["mean"], found["std"]) == pytest.approx((theirs.mean, math.sqrt(theirs.variance)))
    assert (found["skewness"], found["kurtosis"]) == pytest.approx((theirs.skewness, theirs.kurtosis))


@pytest.mark.parametrize(
    ("scores", "prompts", "between", "within"),
    [
        ([1.0], [0], None, None),
        ([1.0, 2.0], [0, 1], None, None),  # nothing is repeated
        ([1.0, 2.0], [0, 0], None, None),  # one prompt
        ([0.0, 2.0, 1.0], [0, 0, 1], 0.0 - 2 / (4 / 3), 2.0),  # n0 = 3 - 5/3, equal means
        ([1.0, 1.0, 3.0, 3.0], [0, 0, 1, 1], 2.0, 0.0),  # all between: the variance of 1 and 3
        ([1.0, 3.0, 1.0, 3.0], [0, 0, 1, 1], -1.0, 2.0),  # all within: MSB 0 less 2, over n0 = 2
    ],
)
def test_variance_components_of_very_few_prompts(
    scores: list[float], prompts: list[int], between: float | None, within: float | None
) -> None:
    found = variance_components(column(np.array(scores), np.array(prompts)))
    assert found == (between and pytest.approx(between), within)


def test_constant_scores_have_no_shape() -> None:
    found = moments(alone(np.full(7, 0.1)))
    assert found["std"] == 0
    assert found["skewness"] is None
    assert found["kurtosis"] is None
    assert found["q01"] == found["q99"] == 0.1


@given(GROUPED)
def test_variance_components_are_the_analysis_of_variance(samples: list[tuple[int, int]]) -> None:
    groups = by_prompt(samples)
    total, count = len(samples), len(groups)
    found = variance_components(grouped(samples))
    if count < 2 or total == count:
        assert found == (None, None)
        return
    overall = sum(map(sum, groups)) / total
    within = sum((x - statistics.fmean(g)) ** 2 for g in groups for x in g) / (total - count)
    between_square = sum(len(g) * (statistics.fmean(g) - overall) ** 2 for g in groups) / (count - 1)
    size = (total - sum(len(g) ** 2 for g in groups) / total) / (count - 1)
    assert found == pytest.approx(((between_square - within) / size, within), abs=1e-9)


def test_variance_components_are_unbiased_for_unequal_prompts() -> None:
    rng = np.random.default_rng(0)
    prompts = np.repeat(np.arange(12), rng.integers(1, 7, size=12))
    estimates = []
    for _ in range(800):
        scores = rng.normal(0, 0.5, size=12)[prompts] + rng.normal(0, 1, size=prompts.size)
        estimates.append(variance_components(column(scores, prompts)))
    assert np.mean(estimates, axis=0) == pytest.approx([0.25, 1.0], abs=0.04)


@given(GROUPED, st.integers(-8, 8))
def test_flip_rates_count_changed_labels(samples: list[tuple[int, int]], tau: int) -> None:
    groups = [group for group in by_prompt(samples) if len(group) > 1]
    found = flip_rates(grouped(samples), tau)
    if not groups:
        assert found == (None, None)
        return
    for rate, baseline in zip(found, (statistics.fmean, statistics.median), strict=True):
        flips = [(x >= tau) != (x >= baseline(group)) for group in groups for x in group]
        assert rate == pytest.approx(sum(flips) / len(flips))


def test_equal_scores_of_a_prompt_stay_positive_under_rounding() -> None:
    scores, prompts = np.full(30, 0.1), np.repeat(np.arange(10), 3)
    assert flip_rates(column(scores, prompts), 0.1) == (0.0, 0.0)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_flip_rate_of_normal_prompts_is_an_angle(share: float) -> None:
    """sign(u + e) differs from sign(e) with probability arccos(corr) / pi for jointly normal u + e and e."""
    rng = np.random.default_rng(0)
    prompts = np.repeat(np.arange(1500), 60)
    scores = math.sqrt(share) * rng.normal(size=1500)[prompts] + math.sqrt(1 - share) * rng.normal(
        size=prompts.size
    )
    expected = math.acos(math.sqrt(1 - share)) / math.pi
    assert flip_rates(column(scores, prompts), 0.0) == pytest.approx((expected, expected), abs=0.012)
