"""DiffusionNFT's loss on predictions against the published formula in double precision, and what it makes of scores."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fine_tune.objectives import Batch, make_objective
from fine_tune.training.forward import Predictions
from tests.fine_tune import world
from tests.fine_tune.objectives.evaluate import labels, objective, slope
from tests.fine_tune.objectives.test_contrast import Inputs, diffusion_inputs, masked_inputs, moved
from tests.tiny import tiny_diffusion_pipeline
from tests.tiny_masked import tiny_amused_pipeline
from tgo_pipeline.errors import TgoError

SEEDS = list(range(6))
OPTIMALITY = np.array([0.0, 0.2, 0.5, 0.7, 0.9, 1.0])


def contrast(folder: Path, inputs: Inputs, **nft: Any) -> tuple[Any, Predictions]:
    params = world.params(folder, objective="nft", nft=nft).fine_tune
    case = moved(folder, params, inputs, SEEDS)
    return make_objective(params), dataclasses.replace(case, policy=case.policy.detach().requires_grad_())


def published(
    prediction: np.ndarray, case: Predictions, images: np.ndarray, beta: float, kl: float, velocity: bool
) -> np.ndarray:
    """The formula with denoised images, from the schedule itself: the noisy latents are alpha z + sigma eps."""
    reference, noised = (t.detach().double().numpy() for t in (case.reference, case.corruption.latents))
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alpha = np.sqrt(np.cumprod(1 - betas)[case.corruption.timesteps.numpy()])[:, None, None, None]
    sigma = np.sqrt(1 - alpha**2)

    def error(v: np.ndarray, unit: np.ndarray | None = None) -> np.ndarray:
        denoised = alpha * noised - sigma * v if velocity else (noised - sigma * v) / alpha
        absolute = np.abs(denoised - images).mean((1, 2, 3)).clip(1e-5)
        return ((denoised - images) ** 2).mean((1, 2, 3)) / absolute

    positive = (1 - beta) * reference + beta * prediction
    negative = (1 + beta) * reference - beta * prediction
    fit = OPTIMALITY * error(positive) / beta + (1 - OPTIMALITY) * error(negative) / beta
    return 5 * fit + kl * ((prediction - reference) ** 2).mean((1, 2, 3))


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize(("beta", "kl"), [(1.0, 1e-4), (0.1, 0.5)])
def test_the_loss_is_the_published_one(tmp_path: Path, prediction: Any, beta: float, kl: float) -> None:
    folder = tiny_diffusion_pipeline(tmp_path, prediction)
    chosen, case = contrast(folder, diffusion_inputs, beta=beta, kl=kl)
    label = torch.tensor(OPTIMALITY, dtype=torch.float32)
    batch = Batch(label, torch.ones(6), torch.ones(6), contrast=case)
    likelihoods = [case.model.log_likelihood(each, case.corruption) for each in (case.policy, case.reference)]
    losses, _ = chosen.loss(*likelihoods, batch)
    images = diffusion_inputs(torch.Generator().manual_seed(1))[0]["latents"].double().numpy()
    at = case.policy.detach().double().numpy()
    velocity = prediction == "v_prediction"
    expected = published(at, case, images, beta, kl, velocity)
    np.testing.assert_allclose(
        losses.detach(), expected, rtol=2e-3
    )  # z from noisy latents divides by alpha or sigma


def test_its_gradient_is_that_of_the_formula_with_the_unit_held() -> None:
    """On plain float64 predictions, by central differences of the form whose absolute error is a constant."""
    generator = np.random.default_rng(3)
    target, reference, policy = generator.standard_normal((3, 4, 1, 2, 3))
    scale, beta, kl = np.array([0.2, 1.0, 3.0, 14.0]), 0.3, 0.05
    optimality = np.array([0.0, 0.3, 0.8, 1.0])

    def unit(v: np.ndarray) -> np.ndarray:
        return (scale * np.abs(v - target).mean((1, 2, 3))).clip(1e-5)

    held = [unit((1 + sign * beta) * reference - sign * beta * policy) for sign in (-1, 1)]

    def formula(v: np.ndarray) -> np.ndarray:
        parts = []
        for sign, share, constant in zip((-1, 1), (optimality, 1 - optimality), held, strict=True):
            mixture = (1 + sign * beta) * reference - sign * beta * v
            parts.append(share * scale**2 * ((mixture - target) ** 2).mean((1, 2, 3)) / constant / beta)
        return 5 * sum(parts) + kl * ((v - reference) ** 2).mean((1, 2, 3))

    case, predicted = plain_case(policy, reference, target, scale)
    label = torch.tensor(optimality)
    chosen = objective("nft", beta=beta, kl=kl)
    zeros = torch.zeros(4, dtype=torch.float64)
    losses, _ = chosen.loss(zeros, zeros, Batch(label, label, label, contrast=case))
    losses.sum().backward()
    np.testing.assert_allclose(losses.detach(), formula(policy), rtol=1e-12)
    assert predicted.grad is not None
    np.testing.assert_allclose(predicted.grad, slope(formula, policy), rtol=1e-6, atol=1e-8)


def plain_case(*arrays: np.ndarray) -> tuple[Any, torch.Tensor]:
    """Predictions of a latent policy without a network, in double precision."""
    policy, reference, target, scale = (torch.tensor(each) for each in arrays)
    policy.requires_grad_()

    class Plain:
        def mixed(self, share: torch.Tensor) -> torch.Tensor:
            raise AssertionError("nft mixes denoised images")

        def distance(self) -> torch.Tensor:
            return (policy - reference).square().mean((1, 2, 3))

        def x0_error(self, share: torch.Tensor) -> torch.Tensor:
            rows = share.view(-1, 1, 1, 1)
            error = scale.view(-1, 1, 1, 1) * ((1 - rows) * policy + rows * reference - target)
            return error.square().mean((1, 2, 3)) / error.detach().abs().mean((1, 2, 3)).clamp(min=1e-5)

    return Plain(), policy


def test_the_negative_side_is_bounded_where_logistic_losses_are_not(tmp_path: Path) -> None:
    """The loss of a negative sample grows with the distance from the reference, in any direction."""
    chosen, case = contrast(tiny_diffusion_pipeline(tmp_path), diffusion_inputs)
    zeros = torch.zeros(6)

    def negative(step: float) -> np.ndarray:
        moved = Predictions(
            case.model,
            case.corruption,
            case.reference + step * (case.reference - case.corruption.target),
            case.reference,
            draws=1,
        )
        losses, _ = chosen.loss(zeros, zeros, Batch(zeros, zeros, zeros, contrast=moved))
        return losses.numpy()

    assert (negative(1.0) < negative(0.0)).all()  # v- is the target itself
    assert (negative(10.0) > negative(0.0)).all()


def test_a_family_of_tokens_is_refused(tmp_path: Path) -> None:
    chosen, case = contrast(tiny_amused_pipeline(tmp_path), masked_inputs)
    ones = torch.ones(6)
    with pytest.raises(TgoError, match=r"predicts no noise and no velocity.*choose another one"):
        chosen.loss(ones, ones, Batch(ones, ones, ones, contrast=case))


def test_optimality_of_scores_labels_and_prompts() -> None:
    given = labels([3.0, 1.0, -1.0, -30.0], ["p", "p", "q", "q"])
    score = objective("nft").prepare(given).label
    deviation = np.std(given.relative_score, ddof=1)
    np.testing.assert_allclose(score, (given.relative_score / deviation).clip(-5, 5) / 10 + 0.5, rtol=1e-12)
    by_prompt = objective("nft", optimality="prompt").prepare(given).label
    distance = np.array([1.0, -1.0, 14.5, -14.5])
    np.testing.assert_allclose(by_prompt, distance / np.std(distance, ddof=1) / 10 + 0.5, rtol=1e-12)
    assert objective("nft", optimality="label").prepare(given).label.tolist() == [1, 1, 0, 0]


def test_an_advantage_is_cut_at_five_deviations() -> None:
    given = labels([*[0.01, -0.01] * 50, 1e6])
    prepared = objective("nft").prepare(given).label
    assert prepared[-1] == 1.0 and prepared[:-1].max() < 0.51


def test_without_a_contrast_it_is_a_bug() -> None:
    one = torch.ones(1)
    with pytest.raises(ValueError, match="contrast"):
        objective("nft").loss(one, one, Batch(one, one, one))
