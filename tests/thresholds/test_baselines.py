"""Instance baselines against loops in float64, closed forms for Gaussian scores, and simulation."""

from __future__ import annotations

import functools
import math
import statistics
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgo_pipeline.thresholds import baselines
from tgo_pipeline.thresholds.baselines import Kind
from tgo_pipeline.thresholds.streams.groups import Groups

KINDS: tuple[Kind, ...] = ("mean", "median", "soft")
BETAS = (1e-3, 0.1, 1.0, 1e4)
ROWS = st.lists(
    st.tuples(st.integers(0, 4), st.floats(-5, 5, width=32).map(lambda x: round(x, 1))),
    min_size=1,
    max_size=25,
)


def grouped(rows: list[tuple[int, float]]) -> tuple[Groups, list[list[float]]]:
    """The groups, and the same as sorted lists."""
    prompts, values = (np.array(column) for column in zip(*rows, strict=True))
    lists = [sorted(values[prompts == prompt].tolist()) for prompt in np.unique(prompts)]
    return Groups.of(values, prompts), lists


def soft(values: list[float], beta: float) -> float:
    top = max(values)
    return top + beta * math.log(math.fsum(math.exp((v - top) / beta) for v in values) / len(values))


def jackknife(values: list[float], beta: float) -> float:
    count = len(values)
    if count < 2:
        return math.nan
    without = math.fsum(soft(rest, beta) for rest in each_without_one(values)) / count
    return count * soft(values, beta) - (count - 1) * without


def each_without_one(values: list[float]) -> list[list[float]]:
    return [values[:i] + values[i + 1 :] for i in range(len(values))]


def of_others(lists: list[list[float]], value: Callable[[list[float]], float]) -> list[float]:
    return [value(rest) if rest else math.nan for values in lists for rest in each_without_one(values)]


@given(ROWS, st.sampled_from(BETAS))
def test_soft_baselines_are_those_of_a_loop(rows: list[tuple[int, float]], beta: float) -> None:
    groups, lists = grouped(rows)
    close = functools.partial(np.testing.assert_allclose, rtol=1e-9, atol=1e-9 * max(1, beta))
    close(baselines.soft(groups, beta), [soft(v, beta) for v in lists])
    found = baselines.soft_jackknife(groups, beta)
    close(found, [jackknife(v, beta) for v in lists])
    others = of_others(lists, lambda rest: soft(rest, beta))
    close(baselines.leave_one_out(groups, "soft", beta), others)
    corrected = of_others(lists, lambda rest: jackknife(rest, beta))
    close(baselines.leave_one_out_jackknife(groups, beta), corrected)
    relative = [[math.exp((v - max(values)) / beta) for v in values] for values in lists]
    ess = [sum(e) ** 2 / sum(x * x for x in e) for e in relative]
    np.testing.assert_allclose(baselines.soft_ess(groups, beta), ess, rtol=1e-9)


@given(ROWS)
def test_means_and_medians_of_others_are_those_of_a_loop(rows: list[tuple[int, float]]) -> None:
    groups, lists = grouped(rows)
    averages: dict[Kind, Callable[[list[float]], float]] = {
        "mean": statistics.fmean,
        "median": statistics.median,
    }
    for kind, value in averages.items():
        expected = of_others(lists, value)
        np.testing.assert_allclose(baselines.leave_one_out(groups, kind), expected, atol=1e-12)


@given(ROWS)
def test_quantiles_count_below_and_half_of_the_ties(rows: list[tuple[int, float]]) -> None:
    groups, lists = grouped(rows)
    expected = [
        sum((x < v) + 0.5 * (x == v) for x in values) / len(values) for values in lists for v in values
    ]
    np.testing.assert_allclose(baselines.quantiles(groups), expected, rtol=1e-12)
    for p in (0.1, 0.5, 0.77):
        found = baselines.percentiles(groups, p)
        np.testing.assert_allclose(found, [np.quantile(v, p) for v in lists], atol=1e-12)


def test_equal_scores_are_their_own_baseline_exactly() -> None:
    """Otherwise rounding alone would put them on one side."""
    groups = Groups.of(np.full(21, 0.1), np.repeat([0, 1], [1, 20]))
    for values in (baselines.soft(groups, 0.3), baselines.soft_jackknife(groups, 0.3)[1:], groups.means()):
        np.testing.assert_allclose(values, 0.1, rtol=1e-14)
    for kind in KINDS:
        assert set(baselines.leave_one_out(groups, kind, 0.3)[1:].tolist()) == {0.1}


def test_a_group_of_one_has_no_others() -> None:
    groups = Groups.of(np.array([1.0]), np.array([3]))
    assert baselines.soft(groups, 0.1).tolist() == [1.0]
    assert baselines.quantiles(groups).tolist() == [0.5]
    assert np.isnan(baselines.soft_jackknife(groups, 0.1)).all()
    assert np.isnan(
        [baselines.leave_one_out(groups, kind, 0.1)[0] for kind in ("mean", "median", "soft")]
    ).all()


def test_what_is_left_when_the_largest_goes_is_not_lost_to_rounding() -> None:
    """exp(-1000) is 0: the sum over all samples says nothing about those below the largest."""
    groups = Groups.of(np.array([0.0, 1.0, 1000.0]), np.zeros(3, int))
    assert baselines.leave_one_out(groups, "soft", 1.0)[2] == pytest.approx(math.log((1 + math.e) / 2))
    assert baselines.soft(groups, 1e-9).tolist() == pytest.approx([1000])
    assert baselines.soft(groups, 1e9).tolist() == pytest.approx([1001 / 3], rel=1e-6)


def gaussian(k: int, prompts: int, sigma: float, seed: int = 0) -> Groups:
    values = np.random.default_rng(seed).normal(0, sigma, size=prompts * k)
    return Groups.of(values, np.repeat(np.arange(prompts), k))


def test_the_soft_baseline_of_gaussian_scores_is_mean_plus_variance_over_two_beta() -> None:
    groups = gaussian(200_000, 4, 0.25)
    for beta in (0.25, 0.5, 1.0):
        np.testing.assert_allclose(baselines.soft(groups, beta), 0.25**2 / (2 * beta), atol=4e-3)


@pytest.mark.parametrize(
    ("beta", "k", "bias", "within"),
    [(0.3, 16, -0.009, 1e-3), (0.1, 64, -0.040, 3e-3), (0.05, 256, -0.166, 5e-3)],
)
def test_the_bias_of_log_mean_exp_is_the_simulated_one(
    beta: float, k: int, bias: float, within: float
) -> None:
    """Mean error of the plain estimate at sigma = 0.25; tau* = sigma^2 / (2 beta)."""
    groups = gaussian(k, 4000, 0.25)
    found = float(baselines.soft(groups, beta).mean()) - 0.25**2 / (2 * beta)
    assert found == pytest.approx(bias, abs=within)


def test_the_bias_is_that_of_the_delta_method_where_it_is_small_and_the_jackknife_removes_it() -> None:
    sigma, beta, k = 0.25, 0.3, 16
    groups, oracle = gaussian(k, 40_000, sigma), sigma**2 / (2 * beta)
    plain = float(baselines.soft(groups, beta).mean()) - oracle
    corrected = float(baselines.soft_jackknife(groups, beta).mean()) - oracle
    assert plain == pytest.approx(-beta * math.expm1(sigma**2 / beta**2) / (2 * k), rel=0.15)
    assert abs(corrected) < 0.15 * abs(plain)


def test_the_effective_sample_size_is_that_of_log_normal_weights() -> None:
    """K / (1 + CV^2) with CV^2 = exp(sigma^2 / beta^2) - 1."""
    found = float(baselines.soft_ess(gaussian(400, 2000, 0.25), 0.3).mean())
    assert found == pytest.approx(400 / math.exp(0.25**2 / 0.3**2), rel=0.02)


@given(ROWS, st.sampled_from((0.1, 1.0, 10.0)))
def test_leaving_the_own_score_out_moves_no_label_of_mean_and_soft(
    rows: list[tuple[int, float]], beta: float
) -> None:
    """A score is above an average (of itself, or of its exponential) exactly if it is above that of the others."""
    groups, _ = grouped(rows)
    whole: dict[Kind, np.ndarray] = {"mean": groups.means(), "soft": baselines.soft(groups, beta)}
    for kind, baseline in whole.items():
        above = groups.values - groups.spread(baseline)
        above_others = groups.values - baselines.leave_one_out(groups, kind, beta)
        clear = np.abs(np.nan_to_num(above_others)) > 1e-6
        assert np.array_equal(above[clear] > 0, above_others[clear] > 0)


def test_the_soft_rule_finds_the_positive_rate_of_the_oracle() -> None:
    """Phi(-sigma / (2 beta)): 0.31 at sigma = beta."""
    groups = gaussian(256, 400, 1.0)
    positive = groups.values >= groups.spread(baselines.soft(groups, 1.0))
    assert positive.mean() == pytest.approx(0.5 * math.erfc(0.5 / math.sqrt(2)), abs=0.01)


@pytest.mark.parametrize(("beta", "tau"), {0.05: 0.850, 0.1: 0.770, 0.3: 0.628, 1.0: 0.541}.items())
def test_quantile_thresholds_are_the_published_ones(beta: float, tau: float) -> None:
    assert baselines.tau_q(beta) == pytest.approx(tau, abs=5e-4)


def test_the_quantile_threshold_splits_uniform_rewards_as_the_soft_baseline_does() -> None:
    uniform = (np.arange(100_000) + 0.5) / 100_000
    groups = Groups.of(uniform, np.zeros(100_000, int))
    assert baselines.soft(groups, 0.1)[0] == pytest.approx(baselines.tau_q(0.1), abs=1e-6)
