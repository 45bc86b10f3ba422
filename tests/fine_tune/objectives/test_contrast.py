"""DSPO's mixtures of real policies with their references, written out on the predictions in double precision."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fine_tune.objectives import Batch, Objective, make_objective
from fine_tune.policies import policy_class
from fine_tune.training.forward import Predictions
from tests.fine_tune import world
from tests.fine_tune.objectives.evaluate import sigma
from tests.tiny import LATENT_SIZE, TOKENS, tiny_diffusion_pipeline
from tests.tiny_masked import CODES, GRID, WIDTH, tiny_amused_pipeline
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.params import FineTuneParams

PAIRS = 3
SEEDS = [seed for seed in range(100, 100 + PAIRS) for _ in range(2)]


def diffusion_inputs(generator: torch.Generator) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    latents = torch.randn(2 * PAIRS, 4, LATENT_SIZE, LATENT_SIZE, generator=generator)
    return {"latents": latents}, {"embeddings": torch.randn(2 * PAIRS, TOKENS, 16, generator=generator)}


def masked_inputs(generator: torch.Generator) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    tokens = torch.randint(CODES, (2 * PAIRS, GRID, GRID), generator=generator, dtype=torch.int32)
    states = torch.randn(2 * PAIRS, 24, WIDTH, generator=generator)
    pooled = torch.randn(2 * PAIRS, WIDTH, generator=generator)
    return {"tokens": tokens, "size": torch.full((2 * PAIRS, 2), 32)}, {"states": states, "pooled": pooled}


Inputs = Callable[[torch.Generator], tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]]
WRITE = {"diffusion": tiny_diffusion_pipeline, "masked": tiny_amused_pipeline}
INPUTS = {"diffusion": diffusion_inputs, "masked": masked_inputs}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp(name)) for name, write in WRITE.items()}


def contrast(folder: Path, family: str, **dspo: Any) -> tuple[Objective, Predictions, Batch]:
    """A policy moved away from its reference, on pairs of equal corruption."""
    params = world.params(folder, objective="dspo", temperature=0.5, beta=2.0, dspo=dspo).fine_tune
    predictions = moved(folder, params, INPUTS[family], SEEDS)
    ones = torch.ones(len(SEEDS))
    batch = Batch(ones, ones, ones, params.beta, params.temperature, contrast=predictions)
    return make_objective(params), predictions, batch


def moved(folder: Path, params: FineTuneParams, inputs: Inputs, seeds: Sequence[int]) -> Predictions:
    """What a policy that was moved away from its reference says, and the reference."""
    pipeline = load_pipeline(str(folder))
    policy = policy_class(pipeline).build(pipeline, params, seed=0, with_reference=True)
    corruption = policy.corrupt(*inputs(torch.Generator().manual_seed(1)), seeds)
    with policy.reference():
        reference = policy.predict(corruption)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return Predictions(policy, corruption, policy.predict(corruption), reference, draws=1)


def losses(objective: Objective, predictions: Predictions, batch: Batch) -> np.ndarray:
    policy, reference = (
        predictions.model.log_likelihood(each, predictions.corruption)
        for each in (predictions.policy, predictions.reference)
    )
    loss, _ = objective.loss(policy, reference, batch)
    loss.sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in predictions.model.trainable().values())
    return loss.detach().numpy()


def double(*tensors: torch.Tensor) -> list[np.ndarray]:
    return [tensor.detach().double().numpy() for tensor in tensors]


def squared(difference: np.ndarray) -> np.ndarray:
    return (difference**2).mean((1, 2, 3))


@pytest.mark.parametrize("strength", [0.001, 0.7])
def test_sd15_of_a_diffusion_policy_is_the_official_expansion(folders, strength: float) -> None:
    objective, predictions, batch = contrast(folders["diffusion"], "diffusion", strength=strength)
    found = losses(objective, predictions, batch)
    policy, reference, target = double(
        predictions.policy, predictions.reference, predictions.corruption.target
    )
    change = squared(policy - target) - squared(reference - target)
    share = strength * (1 - sigma(-(2.0 / 0.5) * (change[0::2] - change[1::2])))
    winner = slice(None, None, 2)
    expected = squared((policy - target)[winner] - share[:, None, None, None] * (policy - reference)[winner])
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_sdxl_of_a_diffusion_policy_scales_its_distance(folders) -> None:
    objective, predictions, batch = contrast(folders["diffusion"], "diffusion", variant="sdxl")
    found = losses(objective, predictions, batch)
    policy, reference, target = double(
        predictions.policy, predictions.reference, predictions.corruption.target
    )
    change = squared(policy - target) - squared(reference - target)
    keep = 1 - sigma(-(2.0 / 0.5) * (change[0::2] - change[1::2]))
    distance = squared(policy - reference)[0::2]
    np.testing.assert_allclose(found, keep**2 * np.where(distance >= 0.1, distance, 1), rtol=1e-5)


def test_sd15_of_a_masked_policy_mixes_logits(folders) -> None:
    objective, predictions, batch = contrast(folders["masked"], "masked", strength=0.7)
    found = losses(objective, predictions, batch)
    mask, target = predictions.corruption.mask.numpy(), predictions.corruption.target.numpy()

    def mean_log_probability(logits: np.ndarray) -> np.ndarray:
        log_p = logits - np.logaddexp.reduce(logits, axis=1, keepdims=True)
        chosen = np.take_along_axis(log_p, target[:, None], axis=1)[:, 0]
        return np.array([row[where].mean() for row, where in zip(chosen, mask, strict=True)])

    policy, reference = double(predictions.policy, predictions.reference)
    change = (mean_log_probability(policy) - mean_log_probability(reference)) * 2.0 / 0.5
    share = np.repeat(0.7 * (1 - sigma(change[0::2] - change[1::2])), 2)[:, None, None, None]
    expected = -mean_log_probability((1 - share) * policy + share * reference)[0::2]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
