"""Noising, targets, likelihoods and references against closed forms."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, UNet2DConditionModel

from fine_tune.policies import policy_class
from fine_tune.policies.diffusion import DiffusionPolicy, DiffusionXLPolicy
from fine_tune.policies.latent import Noised
from tests.fine_tune import world
from tests.rounding import ELEMENTWISE, assert_same_numbers
from tests.tiny import LATENT_SIZE, TOKENS, tiny_diffusion_pipeline
from tests.tiny_families import tiny_sdxl_pipeline
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


def score(policy: DiffusionPolicy, noised: Noised) -> torch.Tensor:
    return policy.log_likelihood(policy.predict(noised), noised)


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
    assert_same_numbers(whole.latents[5:], part.latents, ELEMENTWISE)
    assert_same_numbers(whole.target[5:], part.target, ELEMENTWISE)
    assert torch.equal(whole.timesteps[5:], part.timesteps)


@pytest.mark.parametrize(("prediction", "cut"), [("epsilon", 1e9), ("epsilon", 5.0), ("v_prediction", 5.0)])
def test_in_x0_space_the_error_is_that_of_the_denoised_prediction(
    tmp_path: Path, prediction: Any, cut: float
) -> None:
    """z^ = (z_t - sigma eps^) / alpha, or alpha z_t - sigma v^, in float64; the weight is cut, not the error."""
    model = tiny_diffusion_pipeline(tmp_path, prediction)
    policy = build(model, loglik_space="x0", x0_weight_max=cut, temperature=0.5)
    images, conditions = inputs()
    noised = policy.corrupt(images, conditions, SEEDS)
    predicted = noised.target + 0.1 * torch.randn(
        noised.target.shape, generator=torch.Generator().manual_seed(3)
    )
    kept = alpha_bar()[noised.timesteps.numpy()]
    a, s = (np.sqrt(x)[:, None, None, None] for x in (kept, 1 - kept))
    z = images["latents"].double().numpy()
    noise = draw_noise(policy, noised, z)
    mixed = a * z + s * noise
    wrong = (predicted - noised.target).double().numpy()
    target = noise if prediction == "epsilon" else a * noise - s * z
    denoised = (
        (mixed - s * (target + wrong)) / a if prediction == "epsilon" else a * mixed - s * (target + wrong)
    )
    weight = (1 - kept) / kept if prediction == "epsilon" else 1 - kept
    error = np.square(denoised - z).mean((1, 2, 3)) * np.minimum(1, cut / weight)
    np.testing.assert_allclose(policy.log_likelihood(predicted, noised), -error / 0.5, rtol=1e-4)
    np.testing.assert_allclose(policy.distance(predicted, noised.target, noised), error, rtol=1e-4)
    assert (weight > cut).any() == (cut == 5.0 and prediction == "epsilon")


def draw_noise(policy: DiffusionPolicy, noised: Noised, z: np.ndarray) -> np.ndarray:
    """The noise of each row in float64, solved from the target where it is not the target itself."""
    if policy._scheduler.config["prediction_type"] == "epsilon":
        return noised.target.double().numpy()
    kept = alpha_bar()[noised.timesteps.numpy()][:, None, None, None]
    return (noised.target.double().numpy() + np.sqrt(1 - kept) * z) / np.sqrt(kept)


def test_a_schedule_that_ends_in_pure_noise_keeps_a_finite_error(model: Path) -> None:
    pipeline: Any = load_pipeline(str(model))
    pipeline.scheduler.register_to_config(rescale_betas_zero_snr=True)
    params = world.params(model, loglik_space="x0", x0_weight_max=5.0).fine_tune
    policy = DiffusionPolicy.build(pipeline, params, seed=0, with_reference=False)
    weights = policy._weight(policy._x0_scale)
    assert weights.isfinite().all() and weights[-1] == 5.0


def test_log_likelihood_is_the_mean_squared_error_over_temperature(model: Path) -> None:
    policy = build(model, temperature=0.02)
    noised = policy.corrupt(*inputs(), SEEDS)
    with torch.no_grad():
        unet = load_pipeline(str(model)).unet
        embeddings = noised.conditions["embeddings"]
        prediction = unet(noised.latents, noised.timesteps, encoder_hidden_states=embeddings).sample
        likelihood = score(policy, noised)
    error = np.square(prediction.double().numpy() - noised.target.double().numpy()).mean((1, 2, 3))
    np.testing.assert_allclose(likelihood.numpy(), -error / 0.02, rtol=1e-5)
    assert likelihood.dtype == torch.float32


def test_likelihood_is_float32_under_autocast(model: Path) -> None:
    policy = build(model)
    noised = policy.corrupt(*inputs(), SEEDS)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        assert score(policy, noised).dtype == torch.float32


@pytest.mark.parametrize("method", ["full", "lora"])
def test_reference_is_the_base_exactly_whatever_is_trained(model: Path, method: str) -> None:
    policy = build(model, method=method)
    noised = policy.corrupt(*inputs(), SEEDS)
    with torch.no_grad():
        before = score(policy, noised)
        base = load_pipeline(str(model)).unet
        direct = base(noised.latents, noised.timesteps, noised.conditions["embeddings"]).sample
    perturb(policy)
    with policy.reference():
        reference = score(policy, noised)
    assert torch.equal(before, reference)
    assert_same_numbers(reference, -(direct - noised.target).square().mean((1, 2, 3)) / 0.01)
    assert not torch.equal(score(policy, noised), reference)


def test_the_frozen_copy_is_computed_with_as_the_network_is(model: Path) -> None:
    """torch chooses how to compute a product by whether its weights want gradients and, on a CPU, by where they lie."""
    network, frozen = build(model, method="full").networks
    pairs = list(zip(network.parameters(), frozen.parameters(), strict=True))
    assert pairs
    for trained, kept in pairs:
        assert torch.equal(trained, kept) and trained.data_ptr() != kept.data_ptr()
        assert trained.requires_grad and kept.requires_grad
        assert trained.data_ptr() % 64 == kept.data_ptr() % 64 == 0


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
    score(policy, noised).sum().backward()
    assert all(parameter.grad is not None for parameter in policy.trainable().values())


def test_reference_records_no_gradient(model: Path) -> None:
    policy = build(model)
    noised = policy.corrupt(*inputs(), SEEDS)
    with policy.reference():
        assert not score(policy, noised).requires_grad
    assert score(policy, noised).requires_grad


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
    for config, what in (
        ({"time_cond_proj_dim": 8}, "guidance scale"),
        ({"encoder_hid_dim_type": "ip"}, "images"),
    ):
        pipeline = load_pipeline(str(model))
        pipeline.unet.register_to_config(**config)
        with pytest.raises(TgoError, match=what):
            DiffusionPolicy.build(pipeline, tuning, seed=0, with_reference=False)
    with pytest.raises(TgoError, match="added ones"):
        DiffusionXLPolicy.build(load_pipeline(str(model)), tuning, seed=0, with_reference=False)
    pipeline = load_pipeline(str(model))
    pipeline.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(TgoError, match="no schedule of betas"):
        DiffusionPolicy.build(pipeline, tuning, seed=0, with_reference=False)
    with pytest.raises(TgoError, match="StableDiffusionPipeline"):
        policy_class(object())


def test_the_vae_of_sdxls_descendants_is_normalised_by_channel(tmp_path: Path) -> None:
    """The inverse of what `StableDiffusionXLPipeline` does before it decodes."""
    pipeline: Any = load_pipeline(str(tiny_sdxl_pipeline(tmp_path)))
    encoder = DiffusionXLPolicy.encoder(pipeline, (None, None))
    plain = encoder.images([world.random_image(1)])["latents"] / pipeline.vae.config.scaling_factor
    mean, deviation = [0.1, -0.2, 0.3, 0.4], [2.0, 3.0, 4.0, 5.0]
    pipeline.vae.register_to_config(latents_mean=mean, latents_std=deviation)
    latents = encoder.images([world.random_image(1)])["latents"]
    m, d = (torch.tensor(values).view(1, 4, 1, 1) for values in (mean, deviation))
    torch.testing.assert_close(latents * d / pipeline.vae.config.scaling_factor + m, plain)


def test_images_of_sdxl_carry_no_watermark(tmp_path: Path) -> None:
    assert (
        load_pipeline(str(tiny_sdxl_pipeline(tmp_path))).watermark is None
    )  # also where a package for it is there


def test_time_ids_of_sdxl_have_the_height_first(tmp_path: Path) -> None:
    pipeline: Any = load_pipeline(str(tiny_sdxl_pipeline(tmp_path)))
    encoder = DiffusionXLPolicy.encoder(pipeline, (64, 32))
    time_ids = encoder.images([world.random_image(1), world.random_image(2)])["time_ids"]
    assert time_ids.tolist() == [[32, 64, 0, 0, 32, 64]] * 2
    expected = pipeline._get_add_time_ids((32, 64), (0, 0), (32, 64), torch.float32, 16)
    assert torch.equal(time_ids[:1], expected)
