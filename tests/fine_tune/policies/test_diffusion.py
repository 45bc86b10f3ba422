"""Noising, targets, likelihoods and references against closed forms."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel

from fine_tune.policies import policy_class
from fine_tune.policies.diffusion import DiffusionPolicy
from tests.fine_tune import world
from tests.tiny import LATENT_SIZE, TOKENS, tiny_diffusion_pipeline
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import load_pipeline

SEEDS = list(range(100, 108))


def build(model: Path, **fine_tune: Any) -> DiffusionPolicy:
    params = world.params(model, **fine_tune)
    return DiffusionPolicy.build(load_pipeline(str(model)), params.fine_tune, seed=0, with_reference=True)


def inputs(count: int = len(SEEDS)) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(count, 4, LATENT_SIZE, LATENT_SIZE, generator=generator)
    return {"latents": latents}, {"embeddings": torch.randn(count, TOKENS, 16, generator=generator)}


def alpha_bar() -> np.ndarray:
    """Of the scaled linear schedule: the running product of 1 - beta, beta = linspace(sqrt a, sqrt b)^2."""
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    return np.cumprod(1 - betas)


def perturb(policy: DiffusionPolicy) -> None:
    with torch.no_grad():
        for parameter in policy.trainable().values():
            parameter += 0.05


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_noising_and_target_follow_the_closed_form(tmp_path: Path, prediction: Any) -> None:
    policy = build(tiny_diffusion_pipeline(tmp_path, prediction))
    images, conditions = inputs()
    noised = policy.corrupt(images, conditions, SEEDS)
    a = np.sqrt(alpha_bar()[noised.timesteps.numpy()])[:, None, None, None]
    s = np.sqrt(1 - a**2)
    z = images["latents"].double().numpy()
    noise = (noised.latents.double().numpy() - a * z) / s
    target = noise if prediction == "epsilon" else a * noise - s * z
    # solving for the noise divides float32 rounding by sigma, which is .03 at the first timestep
    np.testing.assert_allclose(noised.target.numpy(), target, atol=2e-4)
    assert abs(noise.mean()) < 0.03 and abs(noise.std() - 1) < 0.03


def test_timesteps_are_uniform_over_the_schedule(model: Path) -> None:
    policy = build(model)
    images = {"latents": torch.zeros(2000, 1, 1, 1)}
    timesteps = policy.corrupt(images, {"embeddings": torch.zeros(2000, 1, 1)}, range(2000)).timesteps
    assert timesteps.min() >= 0 and timesteps.max() <= 999
    counts = np.bincount(timesteps.numpy() // 100, minlength=10)
    assert (np.square(counts - 200) / 200).sum() < 27.9  # chi-square, 9 degrees of freedom, p = .001


def test_a_corruption_depends_on_its_own_seed_alone(model: Path) -> None:
    policy = build(model)
    images, conditions = inputs()
    whole = policy.corrupt(images, conditions, SEEDS)
    part = policy.corrupt(
        {"latents": images["latents"][5:]}, {"embeddings": conditions["embeddings"][5:]}, SEEDS[5:]
    )
    assert torch.equal(whole.latents[5:], part.latents)
    assert torch.equal(whole.target[5:], part.target)
    assert torch.equal(whole.timesteps[5:], part.timesteps)


def test_log_likelihood_is_the_mean_squared_error_over_temperature(model: Path) -> None:
    policy = build(model, temperature=0.02)
    noised = policy.corrupt(*inputs(), SEEDS)
    with torch.no_grad():
        unet = load_pipeline(str(model)).unet
        prediction = unet(noised.latents, noised.timesteps, encoder_hidden_states=noised.embeddings).sample
        likelihood = policy.log_likelihood(noised)
    error = np.square(prediction.double().numpy() - noised.target.double().numpy()).mean((1, 2, 3))
    np.testing.assert_allclose(likelihood.numpy(), -error / 0.02, rtol=1e-5)
    assert likelihood.dtype == torch.float32


def test_likelihood_is_float32_under_autocast(model: Path) -> None:
    policy = build(model)
    noised = policy.corrupt(*inputs(), SEEDS)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert policy.log_likelihood(noised).dtype == torch.float32


@pytest.mark.parametrize("method", ["full", "lora"])
def test_reference_is_the_base_exactly_whatever_is_trained(model: Path, method: str) -> None:
    policy = build(model, method=method)
    noised = policy.corrupt(*inputs(), SEEDS)
    with torch.no_grad():
        before = policy.log_likelihood(noised)
        base = load_pipeline(str(model)).unet
        direct = base(noised.latents, noised.timesteps, noised.embeddings).sample
    perturb(policy)
    with policy.reference():
        reference = policy.log_likelihood(noised)
    assert torch.equal(before, reference)
    assert torch.equal(reference, -(direct - noised.target).square().mean((1, 2, 3)) / 0.01)
    assert not torch.equal(policy.log_likelihood(noised), reference)


def test_an_adapter_needs_no_second_copy_of_the_base(model: Path) -> None:
    def networks() -> int:
        gc.collect()
        return sum(isinstance(thing, UNet2DConditionModel) for thing in gc.get_objects())

    before = networks()
    adapted = build(model, method="lora")
    assert networks() == before + 1
    del adapted
    copied = build(model, method="full")
    assert networks() == before + 2
    del copied


def test_only_the_adapter_is_trained_also_after_a_reference(model: Path) -> None:
    policy = build(model, method="lora")
    names = set(policy.trainable())
    assert names and all("lora_" in name for name in names)
    with policy.reference(), pytest.raises(RuntimeError), torch.enable_grad():
        raise RuntimeError
    assert set(policy.trainable()) == names
    noised = policy.corrupt(*inputs(), SEEDS)
    policy.log_likelihood(noised).sum().backward()
    assert all(parameter.grad is not None for parameter in policy.trainable().values())


def test_reference_records_no_gradient(model: Path) -> None:
    policy = build(model)
    noised = policy.corrupt(*inputs(), SEEDS)
    with policy.reference():
        assert not policy.log_likelihood(noised).requires_grad
    assert policy.log_likelihood(noised).requires_grad


def test_the_adapter_is_drawn_from_the_seed(model: Path) -> None:
    first, second = (build(model, method="lora").trainable() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(parameter.abs().max() > 0 for parameter in first.values())


def test_a_wrong_target_module_is_named(model: Path) -> None:
    with pytest.raises(TgoError, match=r"target_modules.*to_nowhere"):
        build(model, method="lora", lora={"target_modules": ["to_nowhere"]})


def test_models_that_do_not_fit_are_refused(model: Path) -> None:
    tuning = world.params(model).fine_tune
    pipeline = load_pipeline(str(model))
    pipeline.scheduler.register_to_config(prediction_type="sample")
    with pytest.raises(TgoError, match="sample"):
        DiffusionPolicy.build(pipeline, tuning, seed=0, with_reference=False)
    pipeline = load_pipeline(str(model))
    pipeline.unet.register_to_config(in_channels=9)
    with pytest.raises(TgoError, match="9 channels"):
        DiffusionPolicy.build(pipeline, tuning, seed=0, with_reference=False)
    with pytest.raises(TgoError, match="StableDiffusionPipeline"):
        policy_class(object())
