"""Objectives on pairs: Diffusion-DPO, DSPO and MaPO against their official formulas."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fine_tune.objectives import Batch
from tests.fine_tune.objectives.evaluate import (
    betas,
    columns,
    evaluate,
    labels,
    objective,
    pairs,
    sigma,
    slope,
    softplus,
)

PAIRWISE = ["dpo", "dspo", "mapo"]


def rows(winner: np.ndarray, loser: np.ndarray) -> np.ndarray:
    return np.stack([winner, loser], 1).ravel()


@settings(max_examples=60, deadline=None)
@given(pairs, betas)
def test_dpo_loss_and_gradient_weight(ratios, beta: float) -> None:
    winner, loser = columns(ratios)
    reference = np.full(2 * len(winner), -3.0)
    policy = rows(winner, loser) + reference
    margin = beta * ((policy[0::2] - reference[0::2]) - (policy[1::2] - reference[1::2]))
    result = evaluate(objective("dpo"), policy, reference, beta=beta)
    np.testing.assert_allclose(result.loss, softplus(-margin), rtol=1e-12, atol=1e-12)
    weight = beta * sigma(-margin)  # how wrong the implicit reward orders the pair
    np.testing.assert_allclose(result.gradient, rows(-weight, weight), rtol=1e-9, atol=1e-12)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0, 1)] * 4), min_size=1, max_size=8))
def test_dpo_at_beta_2500_per_temperature_is_the_official_loss_at_5000(errors) -> None:
    model_w, model_l, reference_w, reference_l = columns(errors)
    inside = -0.5 * 5000 * ((model_w - model_l) - (reference_w - reference_l))
    temperature, beta = 0.001, 2.5
    policy, reference = -rows(model_w, model_l) / temperature, -rows(reference_w, reference_l) / temperature
    result = evaluate(objective("dpo"), policy, reference, beta=beta, temperature=temperature)
    np.testing.assert_allclose(result.loss, softplus(-inside), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dpo_is_finite_for_extreme_ratios(dtype: torch.dtype) -> None:
    policy = [1e4, -1e4, -1e4, 1e4]
    result = evaluate(objective("dpo"), policy, [0.0] * 4, beta=5.0, dtype=dtype)
    np.testing.assert_allclose(result.loss, [0, 1e5])
    np.testing.assert_allclose(result.gradient, [0, 0, -5, 5])


def test_metrics_are_those_of_the_pair_for_both_of_its_rows() -> None:
    metrics = evaluate(objective("dpo"), [1.0, 2.0, 3.0, 3.0, 0.0, -1.0], [0.0] * 6).metrics
    assert metrics["accuracy"].tolist() == [0, 0, 0.5, 0.5, 1, 1]
    assert metrics["log_ratio"].tolist() == [1, 2, 3, 3, 0, -1]


@pytest.mark.parametrize("name", PAIRWISE)
def test_pairs_are_made_of_all_samples_whatever_their_side(name: str) -> None:
    assert objective(name).pairs
    assert len(objective(name).prepare(labels([1.0, 2.0]))) == 2  # both positive


# DSPO: the official formulas, written on predictions ------------------------------------------------------------


@dataclass(frozen=True)
class Predictions:
    """A contrast of mean squared errors, on (B, D) predictions."""

    policy: Tensor
    reference: Tensor
    target: Tensor
    temperature: float

    def likelihood(self, prediction: Tensor) -> Tensor:
        return -(prediction - self.target).square().mean(1) / self.temperature

    def mixed(self, share: Tensor) -> Tensor:
        share = share[:, None]
        return self.likelihood((1 - share) * self.policy + share * self.reference)

    def distance(self) -> Tensor:
        return (self.policy - self.reference).square().mean(1)


@dataclass(frozen=True)
class Case:
    """Winner and loser rows of predictions, (2P, D)."""

    policy: np.ndarray
    reference: np.ndarray
    target: np.ndarray

    def inside(self, policy: np.ndarray, official_beta: float) -> np.ndarray:
        model = ((policy - self.target) ** 2).mean(1)
        reference = ((self.reference - self.target) ** 2).mean(1)
        return -0.5 * official_beta * ((model[0::2] - model[1::2]) - (reference[0::2] - reference[1::2]))


def case(distance: float = 0.3, number: int = 3) -> Case:
    generator = np.random.default_rng(7)
    target, error, step = generator.standard_normal((3, 2 * number, 5))
    reference = target + 0.5 * error
    return Case(reference + distance * step, reference, target)


def dspo(case: Case, variant: str, official_beta: float, strength: float) -> tuple[np.ndarray, np.ndarray]:
    """Losses, and the gradient of their sum in the predictions."""
    temperature = 0.01
    policy = torch.tensor(case.policy, requires_grad=True)
    contrast = Predictions(policy, torch.tensor(case.reference), torch.tensor(case.target), temperature)
    ones = torch.ones(len(policy), dtype=torch.float64)
    batch = Batch(ones, ones, ones, 0.5 * official_beta * temperature, temperature, contrast=contrast)
    chosen = objective("dspo", variant=variant, strength=strength)
    losses, _ = chosen.loss(contrast.likelihood(policy), contrast.likelihood(contrast.reference), batch)
    losses.sum().backward()
    assert policy.grad is not None
    return losses.detach().numpy(), policy.grad.numpy()


@pytest.mark.parametrize("official_beta", [0.001, 0.05, 1.0, 20.0])
def test_dspo_sd15_is_the_official_loss_with_its_gradient(official_beta: float) -> None:
    given = case()

    def official(policy: np.ndarray) -> np.ndarray:
        keep = 1 - sigma(given.inside(policy, official_beta))[:, None]
        error, difference = (policy - given.target)[0::2], (policy - given.reference)[0::2]
        return ((error - official_beta * keep * difference) ** 2).mean(1)

    loss, gradient = dspo(given, "sd15", official_beta, strength=official_beta)
    np.testing.assert_allclose(loss, official(given.policy), rtol=1e-12)
    np.testing.assert_allclose(gradient, slope(official, given.policy), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("official_beta", [1.0, 20.0])
@pytest.mark.parametrize("distance", [0.03, 2.0])
def test_dspo_sdxl_is_the_official_loss_with_its_gradient(official_beta: float, distance: float) -> None:
    given = case(distance)

    def official(policy: np.ndarray) -> np.ndarray:
        keep = 1 - sigma(given.inside(policy, official_beta))
        difference = ((policy - given.reference)[0::2] ** 2).mean(1)
        far = difference >= 0.1
        assert far.all() or not far.any()  # where the batch's mean decides as each pair does
        return keep**2 * difference if far.all() else keep**2

    loss, gradient = dspo(given, "sdxl", official_beta, strength=1.0)
    np.testing.assert_allclose(loss, official(given.policy), rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(gradient, slope(official, given.policy), rtol=1e-6, atol=1e-9)


def test_dspo_sdxl_asks_each_pair_whether_it_is_far_from_the_reference() -> None:
    given = case(1.0)
    difference = ((given.policy - given.reference)[0::2] ** 2).mean(1)
    assert min(difference) < 0.1 < max(difference)
    loss, _ = dspo(given, "sdxl", 1.0, strength=1.0)
    keep = 1 - sigma(given.inside(given.policy, 1.0))
    np.testing.assert_allclose(loss, keep**2 * np.where(difference >= 0.1, difference, 1), rtol=1e-12)


def test_dspo_sd15_becomes_sft_on_winners_as_beta_goes_to_zero() -> None:
    given = case()
    error = ((given.policy - given.target)[0::2] ** 2).mean(1)
    gaps = []
    for official_beta in (0.1, 0.01, 0.001):
        loss, _ = dspo(given, "sd15", official_beta, strength=official_beta)
        gaps.append(np.abs(loss / error - 1).max())
    assert gaps[0] > gaps[1] > gaps[2]
    assert gaps[2] < 0.001


@settings(max_examples=30, deadline=None)
@given(st.floats(0, 1), st.integers(0, 1000))
def test_an_error_less_a_share_of_the_difference_is_the_error_of_a_mixture(share: float, seed: int) -> None:
    policy, reference, target = np.random.default_rng(seed).standard_normal((3, 4, 5))
    contrast = Predictions(*map(torch.tensor, (policy, reference, target)), temperature=0.25)
    mixed = contrast.mixed(torch.full((4,), share, dtype=torch.float64))
    expanded = (((policy - target) - share * (policy - reference)) ** 2).mean(1)
    np.testing.assert_allclose(-0.25 * mixed, expanded, rtol=1e-12)


@pytest.mark.parametrize("variant", ["sd15", "sdxl"])
@pytest.mark.parametrize("shift", [-30.0, 30.0])
def test_dspo_is_finite_for_extreme_ratios(variant: str, shift: float) -> None:
    given = case()
    far = given.policy + shift * np.tile([[1.0], [-1.0]], (3, 1))  # log-ratios beyond 1e4 at this temperature
    for official_beta in (0.001, 5000.0):
        loss, gradient = dspo(Case(far, given.reference, given.target), variant, official_beta, official_beta)
        assert np.isfinite(loss).all() and np.isfinite(gradient).all()


def test_dspo_without_a_contrast_is_a_bug() -> None:
    with pytest.raises(ValueError, match="contrast"):
        evaluate(objective("dspo"), [1.0, 0.0], [0.0, 0.0])


# MaPO ---------------------------------------------------------------------------------------------------------------


def mapo(error: np.ndarray) -> np.ndarray:
    """The official loss in its own form, for errors that are not 0."""
    odds = 0.5 * error / (np.exp(0.5 * error) - 1)
    return error[0::2] + 0.1 * softplus(-1000 * (odds[0::2] - odds[1::2]))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(*[st.floats(0.01, 8)] * 2), min_size=1, max_size=6), st.floats(1e-3, 1))
def test_mapo_is_the_official_loss_with_its_gradient(errors, temperature: float) -> None:
    error = rows(*columns(errors))
    result = evaluate(objective("mapo"), -error / temperature, temperature=temperature)
    np.testing.assert_allclose(result.loss, mapo(error), rtol=1e-9, atol=1e-9)
    numerical = -temperature * slope(mapo, error, 1e-7)
    np.testing.assert_allclose(result.gradient, numerical, rtol=1e-3, atol=temperature * 1e-3)


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.floats(0, 0.01)] * 2))
def test_mapo_for_small_errors_follows_the_series(errors) -> None:
    winner, loser = errors
    odds = [1 - x / 2 + x**2 / 12 - x**4 / 720 for x in (winner / 2, loser / 2)]
    result = evaluate(objective("mapo"), [-winner, -loser])
    expected = winner + 0.1 * softplus(-1000 * (odds[0] - odds[1]))
    np.testing.assert_allclose(result.loss, expected, rtol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("errors", [(0.0, 0.0), (0.0, 1e5), (1e5, 0.0), (1e5, 1e5), (0.0019, 0.0021)])
def test_mapo_is_finite_for_extreme_errors(errors: tuple[float, float], dtype: torch.dtype) -> None:
    result = evaluate(objective("mapo"), [-errors[0], -errors[1]], dtype=dtype)
    assert np.isfinite(result.loss).all() and np.isfinite(result.gradient).all()


def test_mapo_counts_a_pair_as_right_when_the_winner_has_the_lower_error() -> None:
    assert not objective("mapo").needs_reference
    metrics = evaluate(objective("mapo"), [-0.1, -0.2, -0.4, -0.3]).metrics
    assert metrics["accuracy"].tolist() == [1, 1, 0, 0]
