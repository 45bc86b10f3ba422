"""The flips that are judged against closed forms, and the verdict on worlds of known truth, with its error rates."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.thresholds.worlds import flips, gaussian
from tgo_pipeline.thresholds.adequacy.verdict import (
    MIN_PROMPTS,
    Decision,
    Heterogeneity,
    decide,
    heterogeneity,
    mean_deviation,
    planned_prompts,
)


def found(scores: np.ndarray, p: float = 0.5) -> Heterogeneity:
    tau = np.quantile(scores, p)
    return heterogeneity((scores < tau).sum(1), np.full(scores.shape[0], scores.shape[1]), 0.95)


def _flips(scores: np.ndarray) -> float:
    known = found(scores).flips
    return known.value if known else math.nan


def judged(scores: np.ndarray, p: float = 0.5, tolerance: float = 0.1) -> Decision:
    return decide(found(scores, p), tolerance, 0.95)


@pytest.mark.parametrize(("ratio", "q"), [(0.02, 0.5), (0.2, 0.5), (0.2, 0.8), (0.7, 0.3), (1e-7, 0.4)])
def test_the_mean_deviation_of_a_beta_distribution(ratio: float, q: float) -> None:
    total = 1 / ratio - 1
    draws = np.random.default_rng(0).beta(q * total, (1 - q) * total, 400_000)
    assert mean_deviation(ratio, q) == pytest.approx(np.mean(np.abs(draws - q)), rel=5e-3)


@given(st.floats(0, 1), st.floats(0.001, 0.999), st.floats(0.05, 0.95))
def test_the_mean_deviation_rises_with_the_ratio_between_its_bounds(a: float, b: float, q: float) -> None:
    low, high = sorted((a, b))
    assert mean_deviation(low, q) <= mean_deviation(high, q) + 1e-9
    variance = high * q * (1 - q)
    assert variance / max(q, 1 - q) - 1e-9 <= mean_deviation(high, q) <= math.sqrt(variance) + 1e-9


@pytest.mark.parametrize("each", [2, 4, 16])
@pytest.mark.parametrize("ratio", [0.05, 0.3, 0.7])
def test_flips_of_normal_scores_are_those_of_the_formula_at_any_number_of_samples(
    ratio: float, each: int
) -> None:
    """Labels of two samples of a prompt agree by the orthant formula: variance of F_x(tau) = asin(R) / (2 pi)."""
    known = found(gaussian(ratio, 200_000 // each, each)[0])
    assert known.flips is not None and known.labels is not None and known.bound is not None
    assert known.flips.value == pytest.approx(flips(ratio), rel=0.05)
    assert known.bound.value == pytest.approx(math.sqrt(math.asin(ratio) / (2 * math.pi)), rel=0.04)
    assert known.bound.value > flips(ratio)


def test_a_homogeneous_world_needs_one_tau() -> None:
    decision = judged(gaussian(0, 500, 8)[0])
    assert decision.verdict == "adequate"
    assert "One tau is enough" in decision.sentence and "10 % is tolerated" in decision.sentence


def test_a_heterogeneous_world_needs_more() -> None:
    decision = judged(gaussian(0.4, 500, 8)[0])
    assert decision.verdict == "inadequate"
    assert "One tau is not enough" in decision.sentence


def test_one_sample_a_prompt_tells_nothing() -> None:
    decision = judged(gaussian(0.4, 5000, 1)[0])
    assert decision.verdict == "undecided"
    assert "no prompt has 2 scores" in decision.sentence
    assert decision.size == 4 and decision.needed_prompts == planned_prompts(0.5, 4, 0.1, 0.95)


def test_few_prompts_tell_nothing_however_clear_they_look() -> None:
    decision = judged(gaussian(0.9, MIN_PROMPTS - 1, 16)[0])
    assert decision.verdict == "undecided"
    assert f"{MIN_PROMPTS - 1} prompts have 2 scores or more" in decision.sentence


def test_few_samples_leave_it_open_and_say_how_many_would_do() -> None:
    decision = judged(gaussian(0.15, 60, 2, seed=3)[0])
    assert decision.verdict == "undecided" and decision.needed_prompts is not None
    assert f"{decision.needed_prompts:,} prompts with 2 images" in decision.sentence


def test_the_number_of_prompts_that_is_asked_for_decides() -> None:
    """Asked from a study whose estimate is about the truth."""
    studies = (gaussian(0.25, 60, 4, seed)[0] for seed in range(100))
    scores = next(
        s for s in studies if judged(s).verdict == "undecided" and abs(_flips(s) - flips(0.25)) < 0.01
    )
    needed = judged(scores).needed_prompts
    assert needed is not None and needed > 60
    verdicts = [judged(gaussian(0.25, needed, 4, seed)[0]).verdict for seed in range(60)]
    assert np.mean([verdict == "inadequate" for verdict in verdicts]) > 0.4


def test_a_planned_study_of_a_homogeneous_world_mostly_succeeds() -> None:
    prompts = planned_prompts(0.5, 4, 0.1, 0.95)
    verdicts = [judged(gaussian(0, prompts, 4, seed)[0]).verdict for seed in range(100)]
    assert np.mean([verdict == "adequate" for verdict in verdicts]) > 0.7
    assert "inadequate" not in verdicts


def test_an_estimate_at_the_tolerance_is_not_to_be_settled_by_more_samples() -> None:
    decision = judged(gaussian(0.08, 2000, 4)[0])
    assert decision.verdict == "undecided" and decision.needed_prompts is None
    assert "too near what is tolerated" in decision.sentence


def two_places(prompts: int, each: int, rng: np.random.Generator) -> np.ndarray:
    """Prompts with one of two positive rates, 40 and 60 %: D = sqrt(V) = 0.1, the worst case for `adequate`."""
    return np.where(rng.random((prompts, each)) < rng.choice([0.4, 0.6], prompts)[:, None], 1.0, 0.0)


@pytest.mark.parametrize(("prompts", "each"), [(40, 4), (400, 4), (100, 16)])
def test_errors_at_the_tolerance_are_as_rare_as_the_confidence_says(prompts: int, each: int) -> None:
    """At D = 10 % exactly neither side may be claimed in more than about 2.5 % of the cases."""
    rng = np.random.default_rng(0)
    adequate = inadequate = 0
    rounds = 300
    for _ in range(rounds):
        negative = 1 - two_places(prompts, each, rng)
        known = heterogeneity(negative.sum(1), np.full(prompts, each), 0.95)
        adequate += decide(known, 0.1, 0.95).verdict == "adequate"
    ratio = math.sin(math.pi * 0.1) ** 2
    for seed in range(rounds):
        inadequate += judged(gaussian(ratio, prompts, each, seed)[0]).verdict == "inadequate"
    assert adequate / rounds < 0.05
    assert inadequate / rounds < 0.06


def test_prompts_that_are_each_on_one_side() -> None:
    negatives = np.where(np.arange(40) % 2, 4, 0)
    known = heterogeneity(negatives, np.full(40, 4), 0.95)
    assert known.flips is not None and known.flips.value == 0.5
    assert known.flips.low is not None and 0.3 < known.flips.low < 0.5
    assert decide(known, 0.1, 0.95).verdict == "inadequate"


def test_prompts_that_are_all_split_alike() -> None:
    known = heterogeneity(np.full(40, 2), np.full(40, 4), 0.95)
    assert known.flips is not None and known.flips.value == 0
    assert decide(known, 0.1, 0.95).verdict == "adequate"


def test_scores_on_one_side_of_tau_have_nothing_to_judge() -> None:
    decision = decide(heterogeneity(np.zeros(40, int), np.full(40, 4), 0.95), 0.1, 0.95)
    assert decision.verdict == "undecided" and "same side" in decision.sentence


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(1, 4)), min_size=1, max_size=60))
def test_every_count_gets_a_verdict(prompts: list[tuple[int, int]]) -> None:
    sizes = np.array([size for _, size in prompts])
    negatives = np.minimum([count for count, _ in prompts], sizes)
    known = heterogeneity(negatives, sizes, 0.95)
    assert decide(known, 0.1, 0.95).verdict in ("adequate", "inadequate", "undecided")
    if known.flips is not None and known.bound is not None:
        assert known.flips.value <= known.bound.value + 1e-9
