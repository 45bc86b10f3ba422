"""QRPO: its loss, the threshold that its partition function gives, and the integral that defines it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fine_tune.objectives.evaluate import evaluate, labels, objective, ratios, slope
from tgo_pipeline.errors import TgoError
from tgo_pipeline.thresholds.baselines import tau_q

TAU = {0.05: 0.850, 0.1: 0.770, 0.3: 0.628, 1.0: 0.541}


@pytest.mark.parametrize(("beta", "tau"), TAU.items())
def test_published_thresholds(beta: float, tau: float) -> None:
    assert tau_q(beta) == pytest.approx(tau, abs=5e-4)


@pytest.mark.parametrize("beta", [0.05, 0.1, 0.3, 1.0, 7.0])
def test_threshold_is_beta_times_the_log_of_the_integral_of_exponential_rewards(beta: float) -> None:
    nodes, weights = np.polynomial.legendre.leggauss(200)
    uniform = (nodes + 1) / 2
    integral = float(
        np.sum(weights / 2 * np.exp((uniform - 1) / beta))
    )  # of exp(q / beta), divided by exp(1 / beta)
    assert tau_q(beta) == pytest.approx(1 + beta * math.log(integral), abs=1e-12)


def test_threshold_is_stable_at_both_ends() -> None:
    assert tau_q(1e-6) == pytest.approx(1 - 1e-6 * math.log(1e6), abs=1e-12)
    assert tau_q(1e6) == pytest.approx(0.5, abs=1e-6)


def test_the_optimal_policy_raises_what_is_above_the_threshold() -> None:
    """On a fine grid of quantiles, pi* ~ exp(q / beta) has log-ratios of the sign of q - tau_q, and no loss."""
    beta, number = 0.3, 20_000
    quantile = (np.arange(number) + 0.5) / number
    optimal = np.exp(quantile / beta) / np.exp(quantile / beta).mean()
    assert np.array_equal(np.log(optimal) > 0, quantile > tau_q(beta))
    result = evaluate(objective("qrpo", beta=beta), np.log(optimal), np.zeros(number), score=quantile)
    np.testing.assert_allclose(result.loss, 0, atol=1e-12)
    np.testing.assert_allclose(result.gradient, 0, atol=1e-6)
    assert result.metrics["accuracy"].min() == 1


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-9, 9), st.floats(0, 1)), min_size=1, max_size=8), st.sampled_from(list(TAU))
)
def test_loss_and_gradient_follow_the_formula(rows, beta: float) -> None:
    ratio, quantile = (np.array(column) for column in zip(*rows, strict=True))
    log_z = math.log(beta) + 1 / beta + math.log1p(-math.exp(-1 / beta))

    def expected(ratio: np.ndarray) -> np.ndarray:
        return (quantile - beta * log_z - beta * ratio) ** 2

    result = evaluate(objective("qrpo", beta=beta), ratio, np.zeros_like(ratio), score=quantile, beta=77.0)
    np.testing.assert_allclose(result.loss, expected(ratio), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(result.gradient, slope(expected, ratio), rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(ratios, st.floats(0, 1))
def test_extreme_ratios_are_finite(ratio: float, quantile: float) -> None:
    result = evaluate(objective("qrpo"), [ratio], [0.0], score=[quantile])
    assert np.isfinite(result.loss).all() and np.isfinite(result.gradient).all()


def test_the_official_normaliser_is_the_limit_of_small_beta() -> None:
    for beta in (0.05, 0.1):
        assert tau_q(beta) == pytest.approx(beta * math.log(beta) + 1, abs=1e-4 * beta)


def test_scores_become_quantiles_of_their_prompts() -> None:
    prepared = objective("qrpo").prepare(labels([5.0, 7.0, 0.0, 0.0, 6.0], ["a", "a", "b", "b", "a"]))
    np.testing.assert_allclose(prepared.score, [1 / 6, 5 / 6, 1 / 2, 1 / 2, 3 / 6])


def test_quantiles_need_prompts_with_several_images() -> None:
    with pytest.raises(TgoError, match=r"raise generate\.images_per_prompt"):
        objective("qrpo").prepare(labels([1.0, 2.0, 3.0]))
