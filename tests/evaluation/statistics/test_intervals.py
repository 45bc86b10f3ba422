"""Effective sizes, intervals and tests against closed forms, scipy and seeded simulations."""

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.statistics.intervals import (
    bootstrap_means,
    compare_pairs,
    effective_size,
    may_decide,
    sign_flip_test,
    spread,
)
from tgo_pipeline.thresholds.adequacy.intervals import wilson_interval


def test_effective_size_of_single_images_is_their_number() -> None:
    outcomes = np.random.default_rng(0).integers(0, 2, 50).astype(float)
    assert effective_size(outcomes, np.arange(50)) == pytest.approx(50)


def test_effective_size_of_equal_copies_is_the_number_of_prompts() -> None:
    outcomes = np.random.default_rng(0).integers(0, 2, 50).astype(float)
    assert effective_size(np.repeat(outcomes, 4), np.repeat(np.arange(50), 4)) == pytest.approx(50, rel=0.02)


def test_effective_size_without_variation_is_the_number_of_prompts() -> None:
    assert effective_size(np.ones(12), np.repeat(np.arange(3), 4)) == 3
    assert effective_size(np.array([1.0, 0.0, 1.0]), np.zeros(3)) == 1


def test_effective_size_follows_the_intraclass_correlation() -> None:
    """Beta-binomial clusters: the design effect is 1 + (m - 1) rho with rho = 1/(a + b + 1) (Kish)."""
    rng, prompts, images = np.random.default_rng(3), 4000, 5
    rates = np.repeat(rng.beta(2, 2, prompts), images)
    outcomes = (rng.random(prompts * images) < rates).astype(float)
    expected = prompts * images / (1 + (images - 1) / 5)
    assert effective_size(outcomes, np.repeat(np.arange(prompts), images)) == pytest.approx(
        expected, rel=0.03
    )


def _interval(values: np.ndarray, clusters: np.ndarray, resamples: int = 1000, seed: int = 0) -> tuple:
    low, high = bootstrap_means(values[:, None], clusters, resamples=resamples, confidence=0.95, seed=seed)
    return low[0], high[0]


def test_bootstrap_covers_the_truth() -> None:
    rng, covered, trials = np.random.default_rng(1), 0, 400
    for trial in range(trials):
        values = rng.normal(0.3, 1, 60)
        low, high = _interval(values, np.arange(60), resamples=300, seed=trial)
        covered += low <= 0.3 <= high
    assert 0.91 <= covered / trials <= 0.98  # .95 give or take two standard errors and the percentile's bias


def test_bootstrap_width_is_the_clustered_standard_error() -> None:
    """Equal clusters: the standard error is that of the mean of cluster means, not of independent samples."""
    rng, prompts, images = np.random.default_rng(2), 200, 6
    clusters = rng.permutation(np.repeat(np.arange(prompts), images))
    values = rng.normal(0, 1, prompts)[clusters] + rng.normal(0, 0.5, prompts * images)
    low, high = _interval(values, clusters, resamples=8000)
    cluster_means = np.array([values[clusters == cluster].mean() for cluster in range(prompts)])
    analytic = 2 * 1.96 * cluster_means.std(ddof=0) / math.sqrt(prompts)
    assert high - low == pytest.approx(analytic, rel=0.05)
    naive = 2 * 1.96 * values.std() / math.sqrt(values.size)
    assert high - low > 2 * naive


def test_bootstrap_of_a_constant_difference_is_that_constant() -> None:
    assert _interval(np.full(20, 0.25), np.repeat(np.arange(10), 2)) == (0.25, 0.25)


def test_bootstrap_of_one_prompt_claims_nothing() -> None:
    low, high = _interval(np.array([0.1, 0.4, 0.2]), np.zeros(3))
    assert math.isnan(low) and math.isnan(high)


def test_bootstrap_of_nothing_is_an_error() -> None:
    with pytest.raises(TgoError, match="nothing to compare"):
        _interval(np.empty(0), np.empty(0))
    with pytest.raises(TgoError, match="equal length"):
        _interval(np.ones(3), np.ones(2))


def test_bootstrap_ignores_missing_values_of_a_column_alone() -> None:
    rng = np.random.default_rng(5)
    values, clusters = rng.normal(size=(300, 2)), np.repeat(np.arange(100), 3)
    holed = values.copy()
    holed[rng.random(300) < 0.3, 1] = np.nan
    options = {"resamples": 4000, "confidence": 0.9, "seed": 7}
    whole = np.array(bootstrap_means(values, clusters, **options))
    partly = np.array(bootstrap_means(holed, clusters, **options))
    kept = ~np.isnan(holed[:, 1])
    alone = np.array(bootstrap_means(holed[kept][:, 1:], clusters[kept], **options))
    assert np.array_equal(partly[:, 0], whole[:, 0])
    np.testing.assert_allclose(partly[:, 1], alone[:, 0], atol=0.015)


def test_the_seed_decides_the_resamples() -> None:
    values = np.random.default_rng(0).normal(size=40)
    assert _interval(values, np.arange(40)) == _interval(values, np.arange(40))
    assert _interval(values, np.arange(40)) != _interval(values, np.arange(40), seed=1)


def test_bootstrap_does_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.random.default_rng(0).normal(size=40)
    whole = _interval(values, np.arange(40), resamples=500)
    monkeypatch.setattr("tgo_pipeline.evaluation.statistics.intervals.BLOCK", 1000)
    assert _interval(values, np.arange(40), resamples=500) == pytest.approx(whole, rel=1e-12)


def test_bootstrap_of_a_whole_evaluation_is_fast() -> None:
    rng = np.random.default_rng(0)
    start = time.process_time()
    for test_set in range(4):
        bootstrap_means(
            rng.normal(size=(300, 14)), np.arange(300), resamples=2000, confidence=0.95, seed=test_set
        )
    assert time.process_time() - start < 1.5


scores = st.lists(
    st.tuples(st.integers(-3, 3), st.integers(-3, 3)), min_size=1, max_size=30
)  # small whole numbers tie often


@settings(max_examples=50, deadline=None)
@given(scores)
def test_wins_ties_and_losses_are_strict_and_complete(pairs: list[tuple[int, int]]) -> None:
    base, tuned = np.array(pairs, dtype=float).T
    wins, ties, losses = compare_pairs(base, tuned)
    assert wins.sum() == sum(t > b for b, t in pairs)
    assert ties.sum() == sum(t == b for b, t in pairs)
    assert wins.sum() + ties.sum() + losses.sum() == len(pairs)


def test_a_missing_score_is_neither_win_nor_tie_nor_loss() -> None:
    for outcome in compare_pairs(np.array([np.nan, 1.0]), np.array([1.0, np.nan])):
        assert not outcome.any()


def test_wilson_on_the_effective_size_covers_the_truth_where_images_share_a_prompt() -> None:
    rng, prompts, images, trials, covered, naive = np.random.default_rng(0), 48, 4, 500, 0, 0
    clusters = np.repeat(np.arange(prompts), images)
    for _ in range(trials):
        rates = np.repeat(rng.beta(2.4, 1.6, prompts), images)  # 0.6 on average
        wins = (rng.random(prompts * images) < rates).astype(float)
        low, high = wilson_interval(wins.mean(), effective_size(wins, clusters), 0.95)
        covered += low <= 0.6 <= high
        low, high = wilson_interval(wins.mean(), wins.size, 0.95)
        naive += low <= 0.6 <= high
    assert naive / trials < 0.91 < 0.925 < covered / trials


def _exact(differences: np.ndarray, clusters: np.ndarray) -> float:
    """The sign-flip test by its definition: a loop over all patterns of signs of the prompts."""
    sums = [differences[clusters == name].sum() for name in np.unique(clusters)]
    observed = abs(sum(sums))
    patterns = list(itertools.product((-1, 1), repeat=len(sums)))
    return sum(
        abs(sum(s * v for s, v in zip(signs, sums, strict=True))) >= observed - 1e-9 for signs in patterns
    ) / len(patterns)


def _flip(differences: np.ndarray, clusters: np.ndarray, flips: int = 19_999) -> float:
    return float(sign_flip_test(differences[:, None], clusters, flips=flips, seed=1)[0])


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 8), st.integers(1, 3), st.integers(0, 10_000), st.booleans())
def test_sign_flips_of_few_prompts_are_counted_one_by_one(
    prompts: int, images: int, seed: int, whole: bool
) -> None:
    rng = np.random.default_rng(seed)
    differences = rng.integers(-2, 3, prompts * images) if whole else rng.normal(0.5, 1, prompts * images)
    clusters = rng.permutation(np.repeat(np.arange(prompts), images))
    assert _flip(differences.astype(float), clusters) == pytest.approx(_exact(differences, clusters))


def test_random_sign_flips_approach_the_exact_value() -> None:
    differences = np.random.default_rng(4).normal(0.4, 1, 13)
    exact = _flip(differences, np.arange(13))
    sampled = _flip(differences, np.arange(13), flips=8000)
    assert 0.02 < exact < 0.9
    assert sampled == pytest.approx(exact, abs=4 * math.sqrt(exact * (1 - exact) / 8000))


def test_sign_flips_find_as_much_in_either_direction() -> None:
    differences, clusters = np.random.default_rng(0).normal(0.3, 1, 90), np.repeat(np.arange(30), 3)
    assert _flip(differences, clusters) == _flip(-differences, clusters)
    assert _flip(differences * 0, clusters) == 1
    assert _flip(np.ones(90), clusters) == 1 / 20_000


def test_sign_flips_of_nothing_say_nothing() -> None:
    found = sign_flip_test(np.array([[1.0, np.nan], [2.0, np.nan]]), np.array(["a", "b"]), flips=100, seed=0)
    assert found[0] == 0.5 and np.isnan(found[1])


def test_sign_flips_keep_their_level_where_images_share_a_prompt() -> None:
    """Prompts that differ at random: 5 % of the tests may find something, where images as units find far more."""
    rng, trials, images = np.random.default_rng(5), 600, 4
    prompts = np.repeat(np.arange(25), images)
    differences = rng.normal(size=(25, trials))[prompts] + 0.3 * rng.normal(size=(25 * images, trials))
    found = sign_flip_test(differences, prompts, flips=999, seed=2)
    assert (found < 0.05).mean() == pytest.approx(0.05, abs=0.028)
    naive = sign_flip_test(differences, np.arange(25 * images), flips=999, seed=2)
    assert (naive < 0.05).mean() > 0.2


def test_clustered_bootstrap_covers_the_truth_where_images_share_a_prompt() -> None:
    rng, prompts, images, trials = np.random.default_rng(7), 50, 4, 300
    clusters = np.repeat(np.arange(prompts), images)
    values = (
        0.2 + rng.normal(size=(prompts, trials))[clusters] + 0.5 * rng.normal(size=(prompts * images, trials))
    )
    low, high = bootstrap_means(values, clusters, resamples=600, confidence=0.95, seed=3)
    assert 0.90 <= ((low <= 0.2) & (high >= 0.2)).mean() <= 0.98
    low, high = bootstrap_means(values, np.arange(len(values)), resamples=600, confidence=0.95, seed=3)
    assert ((low <= 0.2) & (high >= 0.2)).mean() < 0.8


@pytest.mark.parametrize(("confidence", "fewest"), [(0.9, 5), (0.95, 6), (0.99, 8)])
def test_prompts_may_decide_when_equal_signs_are_rare_enough(confidence: float, fewest: int) -> None:
    deciding = [n for n in range(1, 20) if may_decide(n, confidence)]
    assert deciding == list(range(fewest, 20))
    ids = np.arange(fewest)
    alone, enough = (
        sign_flip_test(np.ones((n, 1)), ids[:n], flips=999, seed=0)[0] for n in (fewest - 1, fewest)
    )
    assert enough <= 1 - confidence < alone


def test_intervals_of_too_few_prompts_leave_zero_out_by_chance() -> None:
    generator = np.random.default_rng(0)
    left_out = 0
    for seed in range(300):
        low, high = bootstrap_means(
            generator.normal(size=(3, 1)), np.arange(3), resamples=400, confidence=0.95, seed=seed
        )
        left_out += bool(low[0] > 0 or high[0] < 0)
    assert left_out / 300 == pytest.approx(0.25, abs=0.08)


def test_equal_values_have_no_spread_at_all() -> None:
    for count in (1, 2, 3, 7, 50):
        assert spread(np.full(count, 0.1)) == 0
    assert spread(np.array([1.0, 3.0])) == pytest.approx(math.sqrt(2))


@pytest.mark.parametrize(
    ("outcomes", "clusters", "size"),
    [
        ([1], [0], 1),
        ([1, 0], [0, 0], 1),  # one prompt, however many images
        ([1, 1], [0, 1], 2),  # all of one label: as many as there are prompts
        ([0, 0, 0, 0], [0, 0, 1, 1], 2),
        ([1, 0], [0, 1], 2),
        ([1, 1, 0, 0], [0, 0, 1, 1], 2),
        ([1, 0, 1, 0], [0, 0, 1, 1], 4),  # prompts that are split alike differ less than independent images
    ],
)
def test_effective_sizes_of_very_few(outcomes: list[int], clusters: list[int], size: float) -> None:
    assert effective_size(np.array(outcomes, float), np.array(clusters)) == pytest.approx(size)


def test_a_bootstrap_of_one_prompt_says_nothing_and_of_two_reaches_from_one_to_the_other() -> None:
    options = {"resamples": 4000, "confidence": 0.95, "seed": 0}
    low, high = bootstrap_means(np.array([[1.0], [2.0]]), np.array(["a", "a"]), **options)
    assert np.isnan([low, high]).all()
    values = np.array([[1.0], [3.0], [6.0]])
    low, high = bootstrap_means(values, np.array(["a", "a", "b"]), **options)
    assert (low.item(), high.item()) == (2, 6)
    alone = np.array([1.0, 5.0])
    theirs = stats.bootstrap((alone,), np.mean, n_resamples=4000, method="percentile", rng=0)
    low, high = bootstrap_means(alone[:, None], np.arange(2), **options)
    assert (low.item(), high.item()) == tuple(theirs.confidence_interval) == (1, 5)


def test_a_column_that_one_prompt_alone_has_gets_no_interval() -> None:
    values = np.array([[1.0, 1.0], [2.0, np.nan], [3.0, np.nan]])
    low, high = bootstrap_means(values, np.arange(3), resamples=200, confidence=0.95, seed=0)
    assert np.isnan([low[1], high[1]]).all() and (low[0], high[0]) == (1, 3)


@pytest.mark.parametrize(
    "differences", [[2.0], [0.0], [1.0, 2.0], [1.0, -1.0], [1.0, 1.0, 1.0], [0.0, 0.0, 3.0]]
)
def test_sign_flips_of_very_few_prompts_are_scipys_permutations(differences: list[float]) -> None:
    values = np.array(differences)
    theirs = (
        stats.permutation_test((values,), np.sum, permutation_type="samples") if len(values) > 1 else None
    )
    expected = 1.0 if theirs is None else theirs.pvalue
    assert _flip(values, np.arange(len(values))) == pytest.approx(expected)
