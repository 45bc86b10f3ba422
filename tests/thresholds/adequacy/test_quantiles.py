"""Intervals against printed tables and scipy, down to the smallest sizes."""

from __future__ import annotations

from statistics import NormalDist

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tgo_pipeline.errors import TgoError
from tgo_pipeline.thresholds.adequacy.intervals import t_quantile, wilson_interval


@pytest.mark.parametrize(
    ("freedom", "at_95", "at_99"),  # two-sided, as textbooks print them
    [
        (1, 12.706, 63.657),
        (2, 4.303, 9.925),
        (3, 3.182, 5.841),
        (4, 2.776, 4.604),
        (10, 2.228, 3.169),
        (29, 2.045, 2.756),
        (100, 1.984, 2.626),
        (10**8, 1.960, 2.576),
    ],
)
def test_quantiles_of_t_are_those_of_the_table(freedom: int, at_95: float, at_99: float) -> None:
    assert t_quantile(0.975, freedom) == pytest.approx(at_95, abs=5e-4)
    assert t_quantile(0.995, freedom) == pytest.approx(at_99, abs=5e-4)
    assert t_quantile(0.9, freedom) == pytest.approx(stats.t.ppf(0.9, freedom), rel=1e-9)
    assert t_quantile(0.025, freedom) == pytest.approx(-t_quantile(0.975, freedom), rel=1e-9)


def test_one_value_has_no_quantile_of_t() -> None:
    with pytest.raises(TgoError, match="0 degrees of freedom: two values are needed"):
        t_quantile(0.975, 0)


NEWCOMBE_1998 = [  # Statistics in Medicine 17, table I, method 3
    (81, 263, 0.2553, 0.3662),
    (15, 148, 0.0624, 0.1605),
    (0, 20, 0.0, 0.1611),
    (1, 29, 0.0061, 0.1718),
]


@pytest.mark.parametrize(("wins", "n", "low", "high"), NEWCOMBE_1998)
def test_wilson_matches_published_values(wins: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(wins / n, n, 0.95) == pytest.approx((low, high), abs=5e-5)


@settings(deadline=None)
@given(st.integers(1, 5000), st.integers(0, 1000), st.integers(500, 999))
def test_wilson_ends_are_where_the_score_test_just_accepts(n: int, share: int, permille: int) -> None:
    rate, confidence = round(share / 1000 * n) / n, permille / 1000
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    low, high = wilson_interval(rate, n, confidence)
    assert 0 <= low <= rate <= high <= 1
    for end in (low, high):
        assert (end - rate) ** 2 == pytest.approx(z * z * end * (1 - end) / n, rel=1e-6, abs=1e-12)


@pytest.mark.parametrize(("rate", "n"), [(0.5, 0), (1.2, 10), (-0.1, 10)])
def test_wilson_refuses_what_is_no_rate(rate: float, n: int) -> None:
    with pytest.raises(TgoError):
        wilson_interval(rate, n, 0.95)


@pytest.mark.parametrize(("wins", "n"), [(0, 1), (1, 1), (0, 2), (1, 2), (2, 2), (0, 3), (1, 3), (3, 3)])
@pytest.mark.parametrize("confidence", [0.5, 0.95, 0.999])
def test_wilson_of_very_few_trials_is_scipys(wins: int, n: int, confidence: float) -> None:
    theirs = stats.binomtest(wins, n).proportion_ci(confidence, method="wilson")
    assert wilson_interval(wins / n, n, confidence) == pytest.approx(tuple(theirs), abs=1e-12)


@pytest.mark.parametrize("rate", [0.0, 0.3, 1.0])
@pytest.mark.parametrize("freedom", [1, 2, 40])
def test_wilson_with_students_quantile_ends_where_its_score_test_does(rate: float, freedom: int) -> None:
    t = stats.t.ppf(0.975, freedom)
    low, high = wilson_interval(rate, 5.5, 0.95, freedom)
    assert 0 <= low <= rate <= high <= 1
    for end in (low, high):
        assert (end - rate) ** 2 == pytest.approx(t * t * end * (1 - end) / 5.5, rel=1e-6, abs=1e-12)
