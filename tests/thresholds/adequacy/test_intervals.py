"""Intervals over prompts against brute force, textbook values and simulation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tests.thresholds.columns import column, matrix
from tests.thresholds.worlds import gaussian, grouped
from tgo_pipeline.thresholds.adequacy.intervals import (
    Components,
    components,
    share,
    standard_error,
    wilson_interval,
)
from tgo_pipeline.thresholds.moments import variance_components
from tgo_pipeline.thresholds.streams.groups import Groups


def of_groups(groups: Groups, confidence: float = 0.95) -> Components | None:
    means = groups.means()
    squares = np.add.reduceat((groups.values - groups.spread(means)) ** 2, groups.starts)
    return components(means, squares, groups.sizes, confidence)


def unbalanced(seed: int = 0, prompts: int = 12) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    owner = np.repeat(np.arange(prompts), rng.integers(1, 6, prompts))
    return rng.normal(size=prompts)[owner] + rng.normal(size=owner.size), owner


def test_the_components_are_those_of_the_thresholds_table() -> None:
    groups = Groups.of(*unbalanced())
    found = of_groups(groups)
    assert found is not None
    assert (found.between, found.within) == pytest.approx(variance_components(column(*unbalanced())))
    assert found.ratio.value == pytest.approx(found.between / (found.between + found.within))


def test_the_jackknife_leaves_every_prompt_out_in_turn() -> None:
    values, owner = unbalanced()
    found = of_groups(Groups.of(values, owner))
    assert found is not None

    def log_f(kept: np.ndarray) -> float:
        part = [values[kept & (owner == prompt)] for prompt in np.unique(owner[kept])]
        within = sum(float(np.sum((x - x.mean()) ** 2)) for x in part) / (kept.sum() - len(part))
        between = sum(x.size * (x.mean() - values[kept].mean()) ** 2 for x in part) / (len(part) - 1)
        return math.log(between / within)

    count = owner.max() + 1
    whole = log_f(np.ones(owner.size, bool))
    pseudo = [count * whole - (count - 1) * log_f(owner != prompt) for prompt in range(count)]
    assert found.log_f == pytest.approx(np.mean(pseudo))
    assert found.error == pytest.approx(np.std(pseudo, ddof=1) / math.sqrt(count))


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.6])
def test_the_interval_of_the_ratio_covers_it(ratio: float) -> None:
    covered = []
    for seed in range(200):
        found = of_groups(grouped(gaussian(ratio, 60, 4, seed)[0]))
        assert found is not None and found.ratio.low is not None and found.ratio.high is not None
        covered.append(found.ratio.low - 1e-12 <= ratio <= found.ratio.high)
    assert np.mean(covered) >= 0.9


def test_nothing_repeated_or_too_few_prompts_leave_nothing_to_estimate() -> None:
    assert of_groups(grouped(np.arange(5.0)[:, None])) is None
    assert of_groups(grouped(np.arange(8.0).reshape(2, 4))) is None


@pytest.mark.parametrize("prompts", [3, 4])
def test_the_interval_of_the_ratio_reaches_as_far_as_students_t_over_the_fewest_prompts(prompts: int) -> None:
    found = of_groups(grouped(np.random.default_rng(1).normal(size=(prompts, 2))), 0.5)
    assert found is not None and found.log_f is not None and found.error is not None
    reach = stats.t.ppf(0.75, prompts - 1) * found.error
    ends = [(math.exp(found.log_f + sign * reach) - 1) for sign in (-1, 1)]
    expected = [min(1.0, max(0.0, excess / (excess + found.typical_size))) for excess in ends]
    assert found.ratio.low == pytest.approx(min(expected[0], found.ratio.value))
    assert found.ratio.high == pytest.approx(max(expected[1], found.ratio.value))


@pytest.mark.parametrize("value", [0.1, 0.7, 1 / 3])
@pytest.mark.parametrize("prompts", [3, 7, 30])
def test_scores_that_are_all_equal_have_no_ratio(value: float, prompts: int) -> None:
    """Their mean is off by its last bit, which alone would lie between prompts and be all the variance there is."""
    groups = grouped(np.full((prompts, 3), value))
    assert of_groups(groups) is None
    assert variance_components(matrix(np.full((prompts, 3), value))) == (0, 0)


@pytest.mark.parametrize("prompts", [3, 5, 10, 30])
@pytest.mark.parametrize(("size", "hits"), [(2, 1), (3, 1), (5, 2), (7, 4)])
def test_prompts_that_are_alike_but_one_have_the_same_interval_in_any_order(
    prompts: int, size: int, hits: int
) -> None:
    """Without that one nothing lies between prompts; rounding must not decide what its logarithm is."""
    found = []
    for place in range(prompts):
        means = (hits + (np.arange(prompts) == place)) / size
        squares = size * means * (1 - means)
        found.append(components(means, squares, np.full(prompts, size), 0.95))
    assert all(each is not None and (each.log_f, each.ratio.value) == (None, 0) for each in found)


def test_scores_that_are_constant_in_each_prompt_lie_between_prompts_alone() -> None:
    found = of_groups(grouped(np.repeat(np.arange(5.0), 3).reshape(5, 3)))
    assert found is not None
    assert (found.within, found.ratio.value, found.ratio.low) == (0, 1, None)


def test_a_share_of_independent_samples_has_wilsons_interval() -> None:
    hits = np.repeat([1, 0], [30, 70])
    found = share(hits, np.ones(100, int), 0.95)
    assert (found.low, found.high) == pytest.approx(wilson_interval(0.3, 99, 0.95, 99))
    assert (found.low, found.high) == pytest.approx((0.2189, 0.3958), abs=5e-3)


def test_the_standard_error_of_two_prompts_is_that_of_two_values() -> None:
    values = np.array([0.3, 0.9])
    reach = stats.ttest_1samp(values, 0).confidence_interval(0.95)
    error = standard_error(values * 4, np.array([4, 4]))
    assert (reach.high - reach.low) / 2 == pytest.approx(12.7062047 * error)


def test_a_share_of_one_prompt_has_no_interval_and_one_of_two_prompts_a_wide_one() -> None:
    """t = 12.706, so that z^2 is 161.4: 161.4 / 163.4 and 2 / 163.4; two prompts that differ count as one trial."""
    alone = share(np.array([3]), np.array([4]), 0.95)
    assert (alone.value, alone.low, alone.high) == (0.75, None, None)
    for hits, ends in (([0, 0], (0, 0.9878)), ([1, 1], (0.0122, 1)), ([1, 0], (0.0015, 0.9985))):
        found = share(np.array(hits), np.array([1, 1]), 0.95)
        assert (found.low, found.high) == pytest.approx(ends, abs=1e-4)


def test_samples_of_a_prompt_that_go_together_widen_the_interval() -> None:
    together = share(np.repeat([10, 0], [15, 35]), np.full(50, 10), 0.95)
    as_prompts = share(np.repeat([1, 0], [15, 35]), np.ones(50, int), 0.95)
    assert (together.low, together.high) == pytest.approx((as_prompts.low, as_prompts.high))


def test_the_interval_of_a_share_covers_it() -> None:
    rng = np.random.default_rng(0)
    covered = []
    for _ in range(300):
        rates, sizes = rng.beta(2, 6, 60), rng.integers(2, 8, 60)
        found = share(rng.binomial(sizes, rates), sizes, 0.95)
        assert found.low is not None and found.high is not None
        covered.append(found.low <= 0.25 <= found.high)
    assert 0.91 <= np.mean(covered) <= 0.99


def test_the_standard_error_is_that_of_a_bootstrap_over_prompts() -> None:
    rng = np.random.default_rng(0)
    sizes = rng.integers(1, 6, 80)
    totals = rng.normal(size=80) * sizes + sizes
    draws = rng.integers(0, 80, (4000, 80))
    bootstrap = totals[draws].sum(1) / sizes[draws].sum(1)
    assert standard_error(totals, sizes) == pytest.approx(bootstrap.std(), rel=0.06)


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 5)), min_size=2, max_size=20))
def test_an_interval_holds_its_share(prompts: list[tuple[int, int]]) -> None:
    sizes = np.array([size for _, size in prompts])
    hits = np.minimum([hit for hit, _ in prompts], sizes)
    found = share(hits, sizes, 0.9)
    assert found.low is not None and found.high is not None
    assert 0 <= found.low <= found.value + 1e-12 and found.value - 1e-12 <= found.high <= 1
    assert found.low < found.high
