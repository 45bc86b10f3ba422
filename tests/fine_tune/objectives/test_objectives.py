"""Losses and gradients against the formulas evaluated in float64."""

from __future__ import annotations

import math
from typing import get_args, get_type_hints

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fine_tune.objectives import OBJECTIVES, Batch
from tgo_pipeline.params import FineTuneParams

samples = st.lists(
    st.tuples(
        st.floats(-1e4, 1e4, allow_subnormal=False),  # log-ratio
        st.integers(0, 1),  # label
        st.floats(0, 100, allow_subnormal=False),  # weight
        st.floats(-1e5, 0, allow_subnormal=False),  # log-likelihood of the reference
    ),
    min_size=1,
    max_size=16,
)
betas = st.floats(0.05, 5)


def columns(rows: list[tuple[float, int, float, float]]) -> tuple[np.ndarray, ...]:
    return tuple(np.array(column, dtype=np.float64) for column in zip(*rows, strict=True))


def tgo(policy, reference, label, weight, beta, dtype=torch.float64):
    """Loss and gradient in the policy's log-likelihood."""
    likelihood = torch.tensor(policy, dtype=dtype, requires_grad=True)
    batch = Batch(torch.tensor(label, dtype=dtype), torch.tensor(weight, dtype=dtype), beta)
    loss, metrics = OBJECTIVES["tgo"].loss(likelihood, torch.tensor(reference, dtype=dtype), batch)
    loss.sum().backward()
    assert likelihood.grad is not None
    return loss.detach().numpy(), likelihood.grad.numpy(), metrics


@settings(max_examples=100, deadline=None)
@given(samples, betas)
def test_tgo_loss_and_gradient_follow_the_formula(rows, beta: float) -> None:
    ratio, label, weight, reference = columns(rows)
    policy = reference + ratio
    relative = beta * (policy - reference)
    loss, gradient, _ = tgo(policy, reference, label, weight, beta)
    # -log sigma(r) = log(1 + e^-r) and -log sigma(-r) = log(1 + e^r), without overflow
    expected = weight * (label * np.logaddexp(0, -relative) + (1 - label) * np.logaddexp(0, relative))
    sigma = np.exp(-np.logaddexp(0, -relative))
    np.testing.assert_allclose(loss, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(gradient, beta * weight * (sigma - label), rtol=1e-9, atol=1e-12)


@settings(max_examples=100, deadline=None)
@given(samples, betas)
def test_tgo_in_float32_is_finite_and_close(rows, beta: float) -> None:
    ratio, label, weight, _ = columns(rows)
    loss, gradient, _ = tgo(ratio, np.zeros_like(ratio), label, weight, beta, torch.float32)
    relative = beta * ratio
    expected = weight * (label * np.logaddexp(0, -relative) + (1 - label) * np.logaddexp(0, relative))
    assert np.isfinite(loss).all() and np.isfinite(gradient).all()
    np.testing.assert_allclose(loss, expected, rtol=2e-5, atol=1e-5)


@settings(max_examples=100, deadline=None)
@given(st.floats(-15, 15), st.integers(0, 1), st.floats(0, 50))
def test_tgo_equals_the_papers_pseudocode_where_that_does_not_saturate(relative, label, weight) -> None:
    sigma = 1 / (1 + math.exp(-relative))
    expected = -weight * (label * math.log(sigma + 1e-12) + (1 - label) * math.log1p(-sigma + 1e-12))
    loss, _, _ = tgo([relative], [0.0], [label], [weight], 1.0)
    assert loss[0] == pytest.approx(expected, rel=1e-5, abs=1e-9)


@pytest.mark.parametrize(("ratio", "label", "slope"), [(1e4, 0, 1), (-1e4, 1, -1), (1e4, 1, 0), (-1e4, 0, 0)])
def test_tgo_keeps_its_slope_far_from_zero(ratio: float, label: int, slope: float) -> None:
    for dtype in (torch.float32, torch.float64):
        loss, gradient, _ = tgo([ratio], [0.0], [label], [3.0], 1.0, dtype)
        assert loss[0] == (3e4 if slope else 0)
        assert gradient[0] == 3 * slope


def test_tgo_metrics_carry_no_gradient() -> None:
    _, _, metrics = tgo([1.0, -1.0, 1.0, 0.0], [0.0] * 4, [1, 1, 0, 1], [1.0] * 4, 2.0)
    assert metrics["log_ratio"].tolist() == [1, -1, 1, 0]
    assert metrics["accuracy"].tolist() == [1, 0, 0, 0.5]
    assert not any(metric.requires_grad for metric in metrics.values())


@settings(max_examples=100, deadline=None)
@given(samples, st.floats(1e-4, 10))
def test_sft_is_the_error_of_the_positive_samples(rows, temperature: float) -> None:
    error, label, weight, _ = columns(rows)
    likelihood = torch.tensor(-np.abs(error) / temperature, requires_grad=True)
    batch = Batch(torch.tensor(label), torch.tensor(weight), temperature=temperature)
    loss, _ = OBJECTIVES["sft"].loss(likelihood, None, batch)
    loss.sum().backward()
    np.testing.assert_allclose(loss.detach(), label * np.abs(error), rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(likelihood.grad, -temperature * label, rtol=1e-12)


def test_sft_trains_on_positives_alone_and_without_reference() -> None:
    assert OBJECTIVES["sft"].sides == {1}
    assert not OBJECTIVES["sft"].needs_reference
    assert OBJECTIVES["tgo"].sides == {0, 1}


def test_parameters_name_the_same_objectives() -> None:
    assert set(get_args(get_type_hints(FineTuneParams)["objective"])) == set(OBJECTIVES)
