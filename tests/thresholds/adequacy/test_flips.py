"""Flips, the noise in them and what is left without it, against closed forms of normal scores and plain loops."""

from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.thresholds.columns import matrix
from tests.thresholds.worlds import flips, gaussian, grouped
from tgo_pipeline.thresholds.adequacy.flips import (
    Baseline,
    Residuals,
    Shuffled,
    above,
    soft_facts,
    some_prompts,
    true_baselines,
    weighted_variance,
)
from tgo_pipeline.thresholds.streams.groups import Groups

MEAN = Baseline("prompt_mean")
EVERY = [
    *(Baseline(name) for name in ("prompt_mean", "prompt_median", "prompt_mean_loo", "prompt_median_loo")),
    Baseline("prompt_quantile", 0.5),
    *(Baseline(name, 0.7) for name in ("prompt_soft", "prompt_soft_loo", "prompt_soft_jackknife")),
]


def naive(groups: Groups, baseline: Baseline, tau: float = 0.0) -> float:
    label = above(groups.values, tau, "positive")
    return float(np.mean(label != baseline.positive(groups, baseline.values(groups), "positive")))


def shuffled(scores: np.ndarray) -> Shuffled:
    return Shuffled.of(matrix(scores), np.random.default_rng(0))


@pytest.mark.parametrize("each", [2, 4, 16])
def test_shuffled_scores_flip_as_the_noise_of_a_mean_of_so_many_does(each: int) -> None:
    """corr(s, s - mean of K) = sqrt(1 - 1/K): 25 % of labels at K = 2, 16.7 % at K = 4, 8 % at K = 16."""
    expected = math.asin(1 / math.sqrt(each)) / math.pi
    assert shuffled(gaussian(0.5, 400_000 // each, each)[0]).flip_rate(MEAN, 0, "positive") == pytest.approx(
        expected, abs=0.003
    )
    assert naive(grouped(gaussian(0, 300_000 // each, each)[0]), MEAN) == pytest.approx(expected, abs=0.003)


@pytest.mark.parametrize("ratio", [0.1, 0.5])
def test_noise_and_heterogeneity_do_not_add_in_a_count_of_flips(ratio: float) -> None:
    """Counted: acos(sqrt((1 - R)(1 - 1/K))) / pi, at R = 0.1 and K = 4 19.3 %; noise alone: 16.7 %, truth: 10.2 %."""
    scores = gaussian(ratio, 100_000, 4)[0]
    groups = grouped(scores)
    expected = math.acos(math.sqrt((1 - ratio) * 0.75)) / math.pi
    assert naive(groups, MEAN) == pytest.approx(expected, abs=0.003)
    assert naive(groups, MEAN) - shuffled(scores).flip_rate(MEAN, 0, "positive") < 0.5 * flips(ratio)


@pytest.mark.parametrize("ratio", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("baseline", [MEAN, Baseline("prompt_median"), Baseline("prompt_quantile", 0.5)])
def test_without_the_noise_the_flips_are_those_of_the_true_baselines(
    baseline: Baseline, ratio: float
) -> None:
    scores = gaussian(ratio, 60_000, 4)[0]
    groups = grouped(scores)
    values = baseline.values(groups)
    noise = shuffled(scores).noise(baseline, 1 - ratio)
    true = true_baselines(values, groups.sizes, noise)
    residuals = Residuals.of(groups)
    assert weighted_variance(true, groups.sizes) == pytest.approx(ratio, abs=0.01)
    assert residuals.flip_rate(true, groups.sizes, 0.0, 0.0) == pytest.approx(flips(ratio), abs=0.015)


def test_thresholds_per_prompt_cut_the_flips_where_prompts_differ_and_add_them_where_not() -> None:
    """Against the known true means: 16 samples a prompt, R = 0.4 (1/R < 16), and R = 0."""
    for ratio, better in ((0.4, True), (0.0, False)):
        scores, means = gaussian(ratio, 2000, 16)
        truth = scores >= means[:, None]
        one = np.mean((scores >= np.median(scores)) != truth)
        own = np.mean((scores >= scores.mean(1, keepdims=True)) != truth)
        assert one == pytest.approx(flips(ratio), abs=0.012)
        assert own == pytest.approx(math.asin(1 / 4) / math.pi, abs=0.01)
        assert bool(own < one) is better


def test_the_noise_of_a_mean_is_the_variance_over_the_number() -> None:
    assert shuffled(gaussian(0.5, 20_000, 5, total=4.0)[0]).noise(MEAN, 2.0) == pytest.approx(
        2.0 / 5, rel=0.02
    )


def test_the_jackknife_knows_the_noise_of_a_soft_baseline() -> None:
    """Delta method: beta^2 CV^2 / K with CV^2 = exp(sigma^2 / beta^2) - 1, far below K."""
    sigma, beta, each = 0.25, 0.5, 32
    groups = grouped(sigma * np.random.default_rng(0).normal(size=(20_000, each)))
    expected = beta**2 * math.expm1(sigma**2 / beta**2) / each
    assert soft_facts(groups, beta).noise / groups.values.size == pytest.approx(expected, rel=0.04)
    assert np.var(Baseline("prompt_soft", beta).values(groups)) == pytest.approx(expected, rel=0.05)


def test_the_bias_of_log_mean_exp_is_that_of_the_delta_method_and_the_jackknife_takes_it_out() -> None:
    sigma, beta, each = 0.25, 0.3, 16
    groups = grouped(sigma * np.random.default_rng(0).normal(size=(30_000, each)))
    truth = sigma**2 / (2 * beta)
    bias = Baseline("prompt_soft", beta).values(groups).mean() - truth
    assert bias == pytest.approx(-beta * math.expm1(sigma**2 / beta**2) / (2 * each), abs=1e-3)
    assert abs(Baseline("prompt_soft_jackknife", beta).values(groups).mean() - truth) < abs(bias) / 4


@pytest.mark.parametrize("scaled", [0.25, 0.5, 1.0, 1.31, 2.0])
def test_the_oracle_of_normal_scores_is_positive_for_so_many(scaled: float) -> None:
    """Phi(-sigma / 2 beta), from many samples a prompt."""
    groups = grouped(np.random.default_rng(0).normal(size=(100, 4000)))
    soft = Baseline("prompt_soft", 1 / scaled)
    positive = soft.positive(groups, soft.values(groups), "positive").mean()
    assert positive == pytest.approx(NormalDist().cdf(-scaled / 2), abs=0.01)


def _loop(values: list[float], baseline: Baseline, ties: str) -> list[bool]:
    """The labels of one prompt, sample by sample."""
    found = []
    for place, score in enumerate(values):
        others = values[:place] + values[place + 1 :]
        known = others if baseline.per_sample else values
        if baseline.name == "prompt_quantile":
            own = sum(v < score for v in values) + sum(v == score for v in values) / 2
            found.append(own / len(values) >= 0.5 if ties == "positive" else own / len(values) > 0.5)
            continue
        threshold = {
            "mean": lambda known=known: math.fsum(known) / len(known),
            "median": lambda known=known: float(np.median(known)),
            "soft": lambda known=known: (
                0.7 * math.log(math.fsum(math.exp(v / 0.7) for v in known) / len(known))
            ),
        }[baseline.name.split("_")[1]]()
        found.append(score > threshold + 1e-9 or (ties == "positive" and abs(score - threshold) <= 1e-9))
    return found


@given(
    st.lists(
        st.lists(st.integers(-4, 4).map(lambda v: v / 2), min_size=2, max_size=5), min_size=1, max_size=6
    ),
    st.sampled_from(
        [b for b in EVERY if b.name not in ("prompt_soft_jackknife", "prompt_soft_loo", "prompt_soft")]
    ),
    st.sampled_from(["positive", "negative"]),
)
def test_labels_are_those_of_a_plain_loop(prompts: list[list[float]], baseline: Baseline, ties: str) -> None:
    values = np.concatenate(prompts)
    groups = Groups.of(values, np.repeat(np.arange(len(prompts)), [len(p) for p in prompts]))
    labels = baseline.positive(groups, baseline.values(groups), ties)  # type: ignore[arg-type]
    expected = np.concatenate([_loop(sorted(p), baseline, ties) for p in prompts])
    thresholds = baseline.values(groups)
    distance = np.abs(groups.values - (thresholds if baseline.per_sample else groups.spread(thresholds)))
    decided = (distance > 1e-9) | (baseline.name == "prompt_quantile")  # a rounded mean may tie or not
    assert np.array_equal(labels[decided], expected[decided])


def test_some_prompts_of_many_are_whole_and_all_of_few() -> None:
    scores = gaussian(0.5, 300, 4)[0]
    few = some_prompts(matrix(scores), np.random.default_rng(0), 400)
    assert few.sizes.tolist() == [4] * len(few.sizes) and 396 <= few.values.size <= 400
    assert {tuple(prompt) for prompt in few.values.reshape(4, -1).T} <= {
        tuple(prompt) for prompt in np.sort(scores)
    }
    every = some_prompts(matrix(scores), np.random.default_rng(0))
    assert np.array_equal(every.values, np.sort(scores).T.ravel())


def test_many_scores_are_shuffled_in_part_and_few_often() -> None:
    few = shuffled(gaussian(0.5, 10, 3)[0])
    assert few.groups.sizes.tolist() == [3] * 10 * 500
    many = shuffled(gaussian(0.5, 200_000, 4)[0])
    assert 299_000 < many.groups.values.size <= 300_000
    assert many.groups.values.var() == pytest.approx(1.0, rel=0.02)


@pytest.mark.parametrize(("draw", "expected"), [("normal", 1 / math.sqrt(2 * math.pi)), ("uniform", 1.0)])
def test_the_highest_density_of_residuals(draw: str, expected: float) -> None:
    values = getattr(np.random.default_rng(0), draw)(size=50_000)
    residuals = Residuals(np.sort(values))
    assert residuals.highest_density == pytest.approx(expected, rel=0.07)
    assert Residuals(np.repeat([0.0, 1.0], 500)).highest_density is None
