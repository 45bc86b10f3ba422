"""Objectives on labels: Diffusion-KTO and BCO against their formulas, their reference points, and how they relate."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fine_tune.objectives import Batch
from fine_tune.objectives.base import ReferencePoint
from tests.fine_tune.objectives.evaluate import (
    betas,
    columns,
    evaluate,
    objective,
    ratios,
    samples,
    sigma,
    slope,
    softplus,
)

UTILITIES = {"sigmoid": sigma, "loss_averse": lambda x: -softplus(-x), "risk_seeking": softplus}
moderate = st.lists(st.tuples(st.floats(-9, 9), st.integers(0, 1)), min_size=1, max_size=8)
NOTHING = torch.zeros(0)
BATCH = Batch(NOTHING, NOTHING, NOTHING)


@pytest.mark.parametrize("utility", UTILITIES)
@settings(max_examples=40, deadline=None)
@given(moderate, betas, st.floats(-3, 3), st.floats(0, 2), st.floats(0, 2))
def test_kto_loss_and_gradient_follow_the_formula(utility, rows, beta, point, desirable, undesirable) -> None:
    ratio, label = columns(rows)
    sign, scale = 2 * label - 1, np.where(label == 1, desirable, undesirable)

    def expected(ratio: np.ndarray) -> np.ndarray:
        return scale * (1 - UTILITIES[utility](sign * beta * (ratio - point)))

    kto = objective("kto", utility=utility, desirable=desirable, undesirable=undesirable)
    result = evaluate(
        kto, ratio, np.zeros_like(ratio), label=label, weight=7 * label, beta=beta, reference_point=point
    )
    np.testing.assert_allclose(result.loss, expected(ratio), rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(result.gradient, slope(expected, ratio), rtol=1e-5, atol=1e-6)


def test_kto_in_error_units_is_the_official_code() -> None:
    model, reference = np.array([0.11, 0.14, 0.09]), np.array([0.12, 0.13, 0.13])
    label, temperature = np.array([1, 0, 1]), 0.001
    g = reference - model
    v = g - max(g.mean(), 0)
    expected = 1 - sigma((2 * label - 1) * 1000 * v)  # beta_dpo 1000
    point = objective("kto").reference_point
    assert point is not None
    z, _ = point.value(point.sums(torch.tensor(g / temperature), BATCH), torch.zeros(0))
    result = evaluate(
        objective("kto"),
        -model / temperature,
        -reference / temperature,
        label=label,
        beta=1.0,
        temperature=temperature,
        reference_point=z,
    )
    np.testing.assert_allclose(result.loss, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ["kto", "bco"])
def test_extreme_ratios_are_finite(name: str, dtype: torch.dtype) -> None:
    options = [{"utility": utility} for utility in UTILITIES] if name == "kto" else [{}]
    for each in options:
        result = evaluate(
            objective(name, **each),
            [1e4, 1e4, -1e4, -1e4],
            [0.0] * 4,
            label=[1, 0, 1, 0],
            beta=5.0,
            dtype=dtype,
        )
        assert np.isfinite(result.loss).all() and np.isfinite(result.gradient).all()


@settings(max_examples=60, deadline=None)
@given(samples, betas, st.floats(-3, 3))
def test_bco_loss_and_gradient_follow_the_formula(rows, beta: float, point: float) -> None:
    ratio, label, weight, _ = columns(rows)
    delta = beta * point  # in units of the reward
    reward = beta * ratio
    expected = np.where(label == 1, softplus(-(reward - delta)), softplus(reward - delta))
    result = evaluate(
        objective("bco"),
        ratio,
        np.zeros_like(ratio),
        label=label,
        weight=weight,
        beta=beta,
        reference_point=point,
    )
    np.testing.assert_allclose(result.loss, expected, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(result.gradient, beta * (sigma(reward - delta) - label), rtol=1e-6, atol=1e-9)


# How they relate -------------------------------------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(samples, betas)
def test_tgo_without_weights_is_bco_without_shift(rows, beta: float) -> None:
    ratio, label, _, reference = columns(rows)
    same = {"label": label, "weight": np.ones_like(label), "beta": beta}
    tgo = evaluate(objective("tgo"), reference + ratio, reference, **same)
    bco = evaluate(objective("bco", reward_shift="none"), reference + ratio, reference, **same)
    np.testing.assert_array_equal(tgo.loss, bco.loss)
    np.testing.assert_array_equal(tgo.gradient, bco.gradient)


@settings(max_examples=60, deadline=None)
@given(samples, betas)
def test_tgo_without_weights_is_loss_averse_kto_at_zero_less_a_constant(rows, beta: float) -> None:
    ratio, label, _, reference = columns(rows)
    same = {"label": label, "weight": np.ones_like(label), "beta": beta}
    tgo = evaluate(objective("tgo"), reference + ratio, reference, **same)
    averse = objective("kto", utility="loss_averse", reference_point="none")
    kto = evaluate(averse, reference + ratio, reference, **same)
    np.testing.assert_allclose(kto.loss - 1, tgo.loss, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(kto.gradient, tgo.gradient)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(-9, 9), st.floats(-9, 9)), min_size=1, max_size=8), betas)
def test_shifted_tgo_is_bco(rows, beta: float) -> None:
    ratio, point = columns(rows)
    label = np.arange(len(ratio)) % 2
    for z in point:
        same = {"label": label, "beta": beta, "reference_point": z}
        tgo = evaluate(objective("tgo", reward_shift="running_mean"), ratio, np.zeros_like(ratio), **same)
        bco = evaluate(objective("bco"), ratio, np.zeros_like(ratio), **same)
        np.testing.assert_allclose(tgo.loss, bco.loss, rtol=1e-12, atol=1e-300)


# Reference points --------------------------------------------------------------------------------------------------


def value(point: ReferencePoint, parts: list[list[float]]) -> float:
    sums = [point.sums(torch.tensor(part, dtype=torch.float32), BATCH) for part in parts]
    total = sums[0]
    for each in sums[1:]:
        total = total + each
    return point.value(total, torch.zeros(point.states, dtype=torch.float64))[0]


@pytest.mark.parametrize(
    ("name", "mismatched", "clamped"), [("code", False, True), ("paper", True, True), ("roll", True, False)]
)
@settings(max_examples=30, deadline=None)
@given(st.lists(st.lists(ratios, min_size=1, max_size=5), min_size=1, max_size=4))
def test_ktos_point_is_the_mean_of_the_whole_batch(name, mismatched, clamped, parts) -> None:
    point = objective("kto", reference_point=name).reference_point
    assert point is not None and point.mismatched is mismatched
    whole = [np.float32(ratio) for part in parts for ratio in part]
    mean = sum(float(ratio) for ratio in whole) / len(whole)
    expected = max(mean, 0.0) if clamped else mean
    assert value(point, parts) == pytest.approx(expected, rel=1e-9, abs=1e-9)


def test_no_reference_point_where_none_is_asked_for() -> None:
    assert objective("kto", reference_point="none").reference_point is None
    assert objective("bco", reward_shift="none").reference_point is None


def test_the_shifts_of_tgo_and_bco_are_the_same_two() -> None:
    for name in ("tgo", "bco"):
        clamped = objective(name, reward_shift="kl_clamped").reference_point
        running = objective(name, reward_shift="running_mean").reference_point
        assert clamped is not None and running is not None
        assert clamped.mismatched and value(clamped, [[-1.0, -2.0]]) == 0
        assert running.states == 2 and not running.mismatched


@settings(max_examples=40, deadline=None)
@given(st.lists(st.lists(ratios, min_size=1, max_size=6), min_size=1, max_size=8), st.integers(0, 8))
def test_bcos_delta_is_the_mean_of_every_reward_seen_also_after_resuming(steps, resumed: int) -> None:
    point = objective("bco").reference_point
    assert point is not None
    state = torch.zeros(point.states, dtype=torch.float64)
    seen: list[float] = []
    for number, step in enumerate(steps):
        if number == resumed:  # what a checkpoint holds is all there is to know
            point, state = objective("bco").reference_point, state.clone()
            assert point is not None
        delta, state = point.value(point.sums(torch.tensor(step, dtype=torch.float64), BATCH), state)
        seen += step
        assert delta == pytest.approx(sum(seen) / len(seen), rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("name", ["code", "paper", "roll"])
def test_a_reference_point_carries_no_gradient(name: str) -> None:
    point = objective("kto", reference_point=name).reference_point
    assert point is not None
    sums = point.sums(torch.tensor([1.0, 2.0], requires_grad=True), BATCH)
    assert not sums.requires_grad and sums.dtype == torch.float64
