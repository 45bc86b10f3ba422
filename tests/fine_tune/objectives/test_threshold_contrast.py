"""Contrast across the threshold against its formula, and its optimum, in double precision."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fine_tune.objectives.evaluate import betas, evaluate, labels, objective, ratios, slope, softplus
from tgo_pipeline.errors import TgoError


def infonce(units: np.ndarray, beta: float) -> np.ndarray:
    """-log of the positive's share of e^(beta r), in its own form."""
    scaled = beta * units
    top = scaled.max(1, keepdims=True)
    share = np.exp(scaled - top)
    return np.log(share.sum(1)) + top[:, 0] - scaled[:, 0]


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.data(), betas)
def test_loss_and_gradient_are_those_of_infonce(negatives: int, count: int, drawn, beta: float) -> None:
    size = count * (1 + negatives)
    units = np.array(drawn.draw(st.lists(st.floats(-20, 20), min_size=size, max_size=size)))
    reference = np.linspace(-5, -3, size)
    found = evaluate(
        objective("threshold_contrast", negatives=negatives), units + reference, reference, beta=beta
    )
    rows = units.reshape(count, -1)
    np.testing.assert_allclose(found.loss, infonce(rows, beta), rtol=1e-9, atol=1e-12)
    numerical = slope(lambda r: infonce(r.reshape(count, -1), beta), units)
    np.testing.assert_allclose(found.gradient, numerical, rtol=1e-5, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(ratios, ratios), min_size=1, max_size=8), betas)
def test_with_one_negative_it_is_the_loss_of_dpo(pairs, beta: float) -> None:
    policy = np.array(pairs).ravel()
    mine = evaluate(objective("threshold_contrast"), policy, np.zeros(len(policy)), beta=beta)
    dpo = evaluate(objective("dpo"), policy, np.zeros(len(policy)), beta=beta)
    np.testing.assert_allclose(mine.loss, dpo.loss, rtol=1e-9, atol=1e-11)
    np.testing.assert_allclose(mine.gradient, dpo.gradient, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_it_is_finite_for_extreme_ratios(dtype: torch.dtype) -> None:
    found = evaluate(
        objective("threshold_contrast", negatives=2), [1e4, -1e4, 0, -1e4, 1e4, 0], [0.0] * 6, dtype=dtype
    )
    np.testing.assert_allclose(found.loss, [0, 2e4])
    np.testing.assert_allclose(found.gradient, [0, 0, 0, -1, 1, 0], atol=1e-12)


def test_a_common_drift_of_both_sides_costs_nothing() -> None:
    ratio = np.array([0.3, -0.2, 0.1, 1.0, 0.4, -3.0])
    plain, shifted = (
        evaluate(objective("threshold_contrast", negatives=2), ratio + shift, np.zeros(6))
        for shift in (0.0, -7.0)
    )
    np.testing.assert_allclose(plain.loss, shifted.loss, rtol=1e-12)
    np.testing.assert_allclose(plain.gradient.reshape(2, 3).sum(1), 0, atol=1e-15)


def test_accuracy_is_how_many_negatives_gained_less() -> None:
    metrics = evaluate(
        objective("threshold_contrast", negatives=2), [1.0, 0.0, 2.0, 1.0, 1.0, 0.0], [0.0] * 6
    ).metrics
    assert metrics["accuracy"].tolist() == [0.5, 1, 0, 0.75, 0.5, 1]
    assert metrics["log_ratio"].tolist() == [1, 0, 2, 1, 1, 0]


def test_it_needs_both_sides() -> None:
    with pytest.raises(TgoError, match="is negative"):
        objective("threshold_contrast").prepare(labels([1.0, 2.0]))


@pytest.mark.parametrize("by_distance", [True, False])
def test_its_optimum_is_the_log_ratio_of_the_dealt_sides_up_to_a_constant(by_distance: bool) -> None:
    """Five images of random scores: f = log E[(s - tau)+] / E[(tau - s)+] + c, or log P(s >= tau) / P(s < tau) + c."""
    generator = np.random.default_rng(2)
    scores = generator.normal([-0.6, -0.2, 0.0, 0.3, 0.8], 1.0, (20_000, 5))
    size = np.abs(scores) if by_distance else np.ones_like(scores)
    above, below = ((size * side).mean(0) for side in (scores >= 0, scores < 0))
    p, q = (torch.tensor(each / each.sum()) for each in (above, below))
    f = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([f], max_iter=200, tolerance_grad=1e-12, tolerance_change=1e-15)
    chosen = objective("threshold_contrast")

    def expected() -> torch.Tensor:
        from fine_tune.objectives import Batch

        optimiser.zero_grad()
        rows = torch.stack([f[:, None].expand(5, 5), f[None].expand(5, 5)], -1).reshape(-1)
        ones = torch.ones(50, dtype=torch.float64)
        losses, _ = chosen.loss(rows, torch.zeros_like(rows), Batch(ones, ones, ones))
        total = (losses.view(5, 5) * p[:, None] * q[None]).sum()
        total.backward()
        return total

    optimiser.step(expected)
    found, wanted = f.detach().numpy(), np.log(above / below)
    np.testing.assert_allclose(found - found.mean(), wanted - wanted.mean(), atol=1e-6)


def test_softplus_of_the_difference() -> None:
    found = evaluate(objective("threshold_contrast"), [0.7, -0.4], [0.0, 0.0], beta=2.0)
    np.testing.assert_allclose(found.loss, softplus([-2.2]), rtol=1e-12)
