"""Bounds bound, minimisers minimise, closed forms agree with simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.thresholds.columns import matrix
from tests.thresholds.worlds import gaussian, grouped
from tgo_pipeline.thresholds.adequacy.bounds import (
    NearMedian,
    margin_bound,
    oracle_percentile,
    sampling_flips,
    shares_near,
    weighted_median,
)
from tgo_pipeline.thresholds.adequacy.flips import Residuals
from tgo_pipeline.thresholds.adequacy.intervals import standard_error
from tgo_pipeline.thresholds.estimate import bootstrap_taus
from tgo_pipeline.thresholds.streams.sorted_parts import SortedParts

numbers = st.floats(-100, 100, width=32)


@given(st.lists(st.tuples(numbers, numbers), min_size=1, max_size=40), numbers)
def test_the_margin_bound_bounds_at_every_margin(pairs: list[tuple[float, float]], tau: float) -> None:
    scores, baselines = np.array(pairs, dtype=np.float64).T
    margins = np.geomspace(0.01, 300, 30)
    flips = np.mean((scores >= tau) != (scores >= baselines))
    found = margin_bound(
        shares_near(SortedParts([np.sort(scores)]), tau, margins),
        margins,
        float(np.mean((baselines - tau) ** 2)),
    )
    assert np.all(flips <= found.bounds + 1e-12)
    assert found.least[1] == found.bounds.min()


def test_the_shares_near_tau_are_counted() -> None:
    scores = np.array([0.0, 1.0, 1.5, 2.0, 4.0])
    assert shares_near(SortedParts([scores[:2], scores[2:]]), 1.5, np.array([0.1, 0.5, 1.5])).tolist() == [
        0.2,
        0.6,
        0.8,
    ]


def test_the_best_margin_of_normal_scores() -> None:
    """With density d about tau and error v the bound 2 d h + v / h^2 is least at h = (v / d)^(1/3)."""
    margins = np.geomspace(0.01, 1, 400)
    density, error = 0.4, 1e-4
    margin, least = margin_bound(2 * density * margins, margins, error).least
    assert margin == pytest.approx((error / density) ** (1 / 3), rel=0.02)
    assert least == pytest.approx(3 * density ** (2 / 3) * error ** (1 / 3), rel=1e-3)


@given(st.lists(st.tuples(numbers, st.floats(0.01, 10)), min_size=1, max_size=25))
def test_the_weighted_median_minimises_the_weighted_distance(pairs: list[tuple[float, float]]) -> None:
    values, weights = np.array(pairs).T

    def distance(threshold: float) -> float:
        return float(weights @ np.abs(values - threshold))

    least = min(distance(value) for value in values)
    for some in (values, np.array([values.max() + 1])):  # which may be far from all others
        found = weighted_median(lambda ends: NearMedian.of(values, weights, ends), some)
        assert distance(found) == pytest.approx(least, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize(
    ("scaled", "positive"), [(0.25, 0.45), (0.5, 0.40), (1, 0.31), (1.31, 0.256), (2, 0.16)]
)
def test_the_oracle_percentile_is_that_of_the_table(scaled: float, positive: float) -> None:
    assert 1 - oracle_percentile(scaled, 1.0) == pytest.approx(positive, abs=0.005)


@pytest.mark.parametrize(
    ("n", "expected"), [(500, 0.018), (1000, 0.0126), (10_000, 0.0040), (928_000, 0.0004)]
)
def test_the_sampling_flips_are_those_of_the_table(n: int, expected: float) -> None:
    assert sampling_flips(n, 0.5) == pytest.approx(expected, rel=0.05)


def test_the_sampling_flips_are_those_of_a_simulation() -> None:
    rng = np.random.default_rng(0)
    drawn = np.quantile(rng.random((4000, 400)), 0.3, axis=1)  # F(t) = t
    assert sampling_flips(400, 0.3) == pytest.approx(np.mean(np.abs(drawn - 0.3)), rel=0.05)


def test_the_sampling_flips_over_prompts_are_those_of_a_bootstrap_over_prompts() -> None:
    scores = gaussian(0.5, 400, 5)[0]
    groups = grouped(scores)
    tau = float(np.median(groups.values))
    error = standard_error(groups.count(groups.values < tau), groups.sizes)
    taus = bootstrap_taus(matrix(scores), 0.5, resamples=2000, seed=0)
    moved = np.abs(np.searchsorted(np.sort(groups.values), taus) / groups.values.size - 0.5)
    assert math.sqrt(2 / math.pi) * error == pytest.approx(moved.mean(), rel=0.08)
    assert math.sqrt(2 / math.pi) * error > 1.4 * sampling_flips(2000, 0.5)


@pytest.mark.parametrize("ratio", [0.05, 0.3])
def test_the_density_bound_of_normal_scores(ratio: float) -> None:
    """f E|b - tau| = (1 / (sigma sqrt(2 pi))) sigma_b sqrt(2 / pi), above atan(sigma_b / sigma) / pi, the flips."""
    scores, means = gaussian(ratio, 20_000, 4)
    groups = grouped(scores)
    residuals = Residuals.of(groups)
    density = residuals.highest_density
    assert density is not None
    bound = density * float(np.mean(np.abs(means)))
    assert bound == pytest.approx(math.sqrt(ratio / (1 - ratio)) / math.pi, rel=0.05)
    assert residuals.flip_rate(means, groups.sizes, 0.0, 0.0) <= bound
