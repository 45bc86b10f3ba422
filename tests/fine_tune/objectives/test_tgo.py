"""TGO against its formula in float64, and each of its variants."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fine_tune.objectives.evaluate import (
    betas,
    columns,
    evaluate,
    labels,
    objective,
    samples,
    sigma,
    slope,
    softplus,
)
from tgo_pipeline.errors import TgoError


@settings(max_examples=60, deadline=None)
@given(samples, betas)
def test_loss_and_gradient_follow_the_formula(rows, beta: float) -> None:
    ratio, label, weight, reference = columns(rows)
    policy = reference + ratio
    relative = beta * (policy - reference)
    result = evaluate(objective("tgo"), policy, reference, label=label, weight=weight, beta=beta)
    expected = weight * (label * softplus(-relative) + (1 - label) * softplus(relative))
    np.testing.assert_allclose(result.loss, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(
        result.gradient, beta * weight * (sigma(relative) - label), rtol=1e-9, atol=1e-12
    )


@settings(max_examples=60, deadline=None)
@given(samples, betas)
def test_float32_is_finite_and_close(rows, beta: float) -> None:
    ratio, label, weight, _ = columns(rows)
    result = evaluate(
        objective("tgo"),
        ratio,
        np.zeros_like(ratio),
        label=label,
        weight=weight,
        beta=beta,
        dtype=torch.float32,
    )
    expected = weight * (label * softplus(-beta * ratio) + (1 - label) * softplus(beta * ratio))
    assert np.isfinite(result.loss).all() and np.isfinite(result.gradient).all()
    np.testing.assert_allclose(result.loss, expected, rtol=2e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.floats(-15, 15), st.integers(0, 1), st.floats(0, 50))
def test_equals_the_papers_pseudocode_where_that_does_not_saturate(relative, label, weight) -> None:
    probability = 1 / (1 + math.exp(-relative))
    expected = -weight * (
        label * math.log(probability + 1e-12) + (1 - label) * math.log1p(-probability + 1e-12)
    )
    result = evaluate(objective("tgo"), [relative], [0.0], label=[label], weight=[weight])
    assert result.loss[0] == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(("ratio", "label", "slope"), [(1e4, 0, 1), (-1e4, 1, -1), (1e4, 1, 0), (-1e4, 0, 0)])
def test_keeps_its_slope_far_from_zero(ratio: float, label: int, slope: float) -> None:
    for dtype in (torch.float32, torch.float64):
        result = evaluate(objective("tgo"), [ratio], [0.0], label=[label], weight=[3.0], dtype=dtype)
        assert result.loss[0] == (3e4 if slope else 0)
        assert result.gradient[0] == 3 * slope


def test_metrics() -> None:
    metrics = evaluate(objective("tgo"), [1, -1, 1, 0], [0.0] * 4, label=[1, 1, 0, 1], beta=2.0).metrics
    assert metrics["log_ratio"].tolist() == [1, -1, 1, 0]
    assert metrics["accuracy"].tolist() == [1, 0, 0, 0.5]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-9, 9), st.floats(0, 1), st.floats(0, 5)), min_size=1, max_size=8),
    betas,
    st.floats(0, 2),
    st.floats(-3, 3),
)
def test_shift_damping_and_soft_labels_follow_the_formula(rows, beta, damping, point) -> None:
    ratio, label, weight = columns(rows)

    def expected(ratio: np.ndarray) -> np.ndarray:
        r = beta * (ratio - point)
        return weight * (label * softplus(-r) + damping * (1 - label) * softplus(r))

    result = evaluate(
        objective("tgo", damping=damping),
        ratio,
        np.zeros_like(ratio),
        label=label,
        weight=weight,
        beta=beta,
        reference_point=point,
    )
    np.testing.assert_allclose(result.loss, expected(ratio), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(result.gradient, slope(expected, ratio), rtol=1e-5, atol=1e-6)


def test_default_takes_labels_and_weights_as_they_are() -> None:
    given = labels([2.0, -1.0, 0.5], tau=0.5, weight=[4.0, 2.0, 1.0])
    prepared = objective("tgo").prepare(given)
    assert prepared.label.tolist() == [1, 0, 1]
    assert prepared.weight.tolist() == [4, 2, 1]
    assert objective("tgo").reference_point is None


def test_normalised_weights_have_mean_one() -> None:
    given = labels([2.0, -1.0, 0.5], tau=0.5, weight=[4.0, 2.0, 1.0])
    weight = objective("tgo", normalise_weights=True).prepare(given).weight
    np.testing.assert_allclose(weight, np.array([4, 2, 1]) * 3 / 7)


def test_soft_labels_are_logistic_in_standard_deviations_from_tau() -> None:
    score = np.array([-1.0, 0.25, 0.5, 3.0])
    spread = math.sqrt(sum((s - score.mean()) ** 2 for s in score) / 3)
    soft = objective("tgo", soft_labels=0.5).prepare(labels(score, tau=0.5)).label
    expected = [1 / (1 + math.exp(-(s - 0.5) / (0.5 * spread))) for s in score]
    np.testing.assert_allclose(soft, expected, rtol=1e-12)
    assert soft[2] == 0.5


def test_soft_labels_become_hard_as_their_width_goes_to_zero() -> None:
    given = labels([-1.0, 0.25, 0.75, 3.0], tau=0.5)
    soft = objective("tgo", soft_labels=1e-6).prepare(given).label
    np.testing.assert_allclose(soft, given.label, atol=1e-12)


def test_quantile_labels_take_the_best_of_each_prompt_whatever_its_level() -> None:
    score = [0.1, 0.2, 0.3, 0.4, 9.1, 9.4, 9.3, 9.2]
    options = {"labels": "quantile", "quantile_beta": 0.1, "quantile_c": 2.0}
    prepared = objective("tgo", **options).prepare(labels(score, ["a"] * 4 + ["b"] * 4, tau=5.0))
    assert prepared.label.tolist() == [
        0,
        0,
        0,
        1,
        0,
        1,
        0,
        0,
    ]  # of quantiles 1/8, 3/8, 5/8, 7/8 one is above 0.770
    quantile = np.array([1, 3, 5, 7, 1, 7, 5, 3]) / 8
    np.testing.assert_allclose(prepared.weight, 1 + 2 * abs(quantile - 0.7697), atol=1e-4)


def test_soft_quantile_labels_are_measured_from_the_quantile_threshold() -> None:
    score = [0.1, 0.2, 0.3, 0.4, 9.1, 9.4, 9.3, 9.2]
    options = {"labels": "quantile", "quantile_beta": 1.0, "soft_labels": 1.0}
    soft = objective("tgo", **options).prepare(labels(score, ["a"] * 4 + ["b"] * 4)).label
    distance = np.array([1, 3, 5, 7, 1, 7, 5, 3]) / 8 - math.log(math.e - 1)
    np.testing.assert_allclose(soft, 1 / (1 + np.exp(-distance / distance.std(ddof=1))), rtol=1e-12)


def test_quantile_labels_need_several_images_of_a_prompt() -> None:
    with pytest.raises(
        TgoError, match="no prompt of the 3 labelled samples has two images of different score"
    ):
        objective("tgo", labels="quantile").prepare(labels([1.0, 2.0, 3.0]))


def test_quantile_labels_need_enough_images_for_their_threshold() -> None:
    with pytest.raises(TgoError, match=r"threshold at quantile 0\.850, and the highest.* is 0\.750"):
        objective("tgo", labels="quantile", quantile_beta=0.05).prepare(labels([1.0, 2.0], ["a", "a"]))


def test_an_empty_side_is_refused() -> None:
    with pytest.raises(TgoError, match="none of the 2 labelled samples is negative"):
        objective("tgo").prepare(labels([1.0, 2.0]))


def test_a_missing_reference_is_a_bug() -> None:
    with pytest.raises(ValueError, match="reference"):
        evaluate(objective("tgo"), [1.0])
