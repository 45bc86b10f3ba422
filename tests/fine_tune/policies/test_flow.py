"""Schedules, targets and weights of flow matching against closed forms and the pipelines' own schedules."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler

from fine_tune.policies.flow import FlowPolicy, FluxPolicy, SD3Policy
from tests.fine_tune import world
from tests.tiny_families import CHANNELS, CLIP_WIDTH, T5_WIDTH, tiny_flux_pipeline, tiny_sd3_pipeline
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import load_pipeline

SEEDS = list(range(200, 208))


@pytest.fixture(scope="module")
def sd3(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_sd3_pipeline(tmp_path_factory.mktemp("sd3"))


@pytest.fixture(scope="module")
def flux(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_flux_pipeline(tmp_path_factory.mktemp("flux"))


def build(policy: type[FlowPolicy], model: Path, **fine_tune: Any) -> FlowPolicy:
    params = world.params(model, **fine_tune).fine_tune
    return policy.build(load_pipeline(str(model)), params, seed=0, with_reference=False)


def inputs(size: int = 16) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(len(SEEDS), CHANNELS, size, size, generator=generator)
    embeddings = torch.randn(len(SEEDS), 7, T5_WIDTH, generator=generator)
    return {"latents": latents}, {
        "embeddings": embeddings,
        "pooled": torch.randn(len(SEEDS), CLIP_WIDTH, generator=generator),
    }


def shifted(sigma: np.ndarray, factor: float) -> np.ndarray:
    """s sigma / (1 + (s - 1) sigma) in float64 (arXiv 2403.03206, eq. 23)."""
    return factor * sigma / (1 + (factor - 1) * sigma)


def resolution_shift(tokens: int) -> float:
    """exp(mu), mu linear from 0.5 at 256 tokens to 1.15 at 4096."""
    return math.exp(0.5 + (1.15 - 0.5) * (tokens - 256) / (4096 - 256))


@pytest.mark.parametrize(("family", "size"), [("sd3", 16), ("flux", 16), ("flux", 64)])
def test_the_schedule_is_shifted(family: str, size: int, request: pytest.FixtureRequest) -> None:
    policy = build(SD3Policy if family == "sd3" else FluxPolicy, request.getfixturevalue(family))
    expected = shifted(
        np.arange(1000, 0, -1) / 1000, 3.0 if family == "sd3" else resolution_shift((size // 2) ** 2)
    )
    np.testing.assert_allclose(policy._schedule(torch.Size((1, CHANNELS, size, size))), expected, rtol=1e-6)


@pytest.mark.parametrize("family", ["sd3", "flux"])
def test_sampling_walks_along_the_sigmas_of_training(family: str, request: pytest.FixtureRequest) -> None:
    folder = request.getfixturevalue(family)
    policy = build(SD3Policy if family == "sd3" else FluxPolicy, folder)
    pipeline: Any = load_pipeline(str(folder))
    steps = 8
    pipeline(["a cat"], width=32, height=32, num_inference_steps=steps, output_type="latent")
    sampled = pipeline.scheduler.sigmas[:steps]
    trained = policy._schedule(torch.Size((1, CHANNELS, 16, 16)))
    gaps = (sampled[:, None] - trained[None]).abs().min(1).values
    assert gaps.max() < 0.002
    if family == "flux":  # its pipeline starts from the same evenly spaced sigmas, so these are among them
        torch.testing.assert_close(sampled, trained[:: 1000 // steps])


def test_noising_and_target_follow_the_closed_form(sd3: Path) -> None:
    policy = build(SD3Policy, sd3)
    images, conditions = inputs()
    noised = policy.corrupt(images, conditions, SEEDS)
    z = images["latents"].double().numpy()
    sigma = (noised.timesteps.double().numpy() / 1000)[:, None, None, None]
    noise = noised.target.double().numpy() + z
    np.testing.assert_allclose(noised.latents, (1 - sigma) * z + sigma * noise, atol=1e-6)
    assert abs(noise.mean()) < 0.05 and abs(noise.std() - 1) < 0.05
    assert torch.equal(noised.weight, torch.ones(len(SEEDS)))


@pytest.mark.parametrize("timesteps", ["logit_normal", "uniform"])
def test_the_index_into_the_schedule_has_its_distribution(sd3: Path, timesteps: str) -> None:
    policy = build(SD3Policy, sd3, timesteps=timesteps)
    count = 4000
    sigma = policy.corrupt({"latents": torch.zeros(count, 1, 1, 1)}, {}, range(count)).timesteps / 1000
    place = 1 - sigma / (3 - 2 * sigma)  # undo the shift; the schedule runs downwards
    drawn = np.sort(place.double().numpy())
    if timesteps == "logit_normal":
        logit = np.log(drawn / (1 - drawn).clip(1e-6))
        expected = np.array([0.5 * (1 + math.erf(x / math.sqrt(2))) for x in logit])
    else:
        expected = drawn
    distance = np.abs(expected - (np.arange(count) + 0.5) / count).max()
    assert distance < 1.95 / math.sqrt(count) + 1e-3  # Kolmogorov-Smirnov at p = .001, and the grid's step


@pytest.mark.parametrize("cut", [5.0, 0.3])
def test_in_x0_space_the_error_is_that_of_the_denoised_prediction(sd3: Path, cut: float) -> None:
    policy = build(SD3Policy, sd3, loglik_space="x0", x0_weight_max=cut, temperature=0.5)
    images, conditions = inputs()
    noised = policy.corrupt(images, conditions, SEEDS)
    prediction = torch.randn(noised.target.shape, generator=torch.Generator().manual_seed(5))
    z = images["latents"].double()
    sigma = noised.timesteps.double().view(-1, 1, 1, 1) / 1000
    denoised = noised.latents.double() - sigma * prediction.double()
    squared = (denoised - z).square().mean((1, 2, 3))
    allowed = (cut / sigma.flatten().square()).clamp(max=1)
    likelihood = policy.log_likelihood(prediction, noised)
    np.testing.assert_allclose(likelihood, -(squared * allowed) / 0.5, rtol=2e-5)
    assert (allowed < 1).any() == (cut < 1)


def test_the_loss_is_the_velocitys_mean_squared_error_with_its_gradient(flux: Path) -> None:
    policy = build(FluxPolicy, flux, temperature=0.02)
    noised = policy.corrupt(*inputs(), SEEDS)
    prediction = noised.target.flip(0).clone().requires_grad_()
    policy.log_likelihood(prediction, noised).sum().backward()
    difference = (prediction.detach() - noised.target).double()
    expected = -2 * difference / difference[0].numel() / 0.02
    assert prediction.grad is not None
    np.testing.assert_allclose(prediction.grad, expected, rtol=1e-5, atol=1e-8)


def test_tokens_of_flux_are_squares_of_four_latent_pixels(flux: Path) -> None:
    """Blank one square of the image: a network that sees tokens alone answers otherwise there only."""
    policy = build(FluxPolicy, flux)
    noised = policy.corrupt(*inputs(), SEEDS)

    def echo(hidden_states: torch.Tensor, **_: Any) -> tuple[torch.Tensor]:
        marked = hidden_states.clone()
        marked[:, 8 + 3] = 0.0  # second row of eight tokens, fourth column
        return (marked,)

    out = policy.forward(echo, noised)
    expected = noised.latents.clone()
    expected[:, :, 2:4, 6:8] = 0.0
    assert torch.equal(out, expected)


def test_the_distilled_guidance_is_told_to_dev_alone(flux: Path, tmp_path: Path) -> None:
    def predicted(folder: Path, guidance: float) -> torch.Tensor:
        policy = build(FluxPolicy, folder, embedded_guidance=guidance)
        with torch.no_grad():
            return policy.predict(policy.corrupt(*inputs(), SEEDS))

    assert not torch.allclose(predicted(flux, 1.0), predicted(flux, 3.5))
    schnell = tiny_flux_pipeline(tmp_path, guidance_embeds=False, dynamic=False)
    assert torch.equal(predicted(schnell, 1.0), predicted(schnell, 3.5))


def test_adapters_reach_the_text_side_of_the_attention(sd3: Path) -> None:
    names = build(SD3Policy, sd3, method="lora").trainable()
    assert {name.split(".attn.")[1].split(".lora_")[0] for name in names} == {
        *("to_q", "to_k", "to_v", "to_out.0", "add_q_proj", "add_k_proj", "add_v_proj", "to_add_out")
    }


def test_models_that_do_not_fit_are_refused(flux: Path, sd3: Path) -> None:
    with pytest.raises(TgoError, match="at most 48 pixels"):
        pipeline: Any = load_pipeline(str(sd3))
        SD3Policy.encoder(pipeline, (64, 32))
    tuning = world.params(flux).fine_tune
    pipeline = load_pipeline(str(flux))
    pipeline.transformer.register_to_config(in_channels=96, out_channels=16)
    with pytest.raises(TgoError, match="takes 96 channels and predicts 16"):
        FluxPolicy.build(pipeline, tuning, seed=0, with_reference=False)
    pipeline.scheduler = DDIMScheduler()
    with pytest.raises(TgoError, match="DDIMScheduler: only FlowMatchEuler"):
        FluxPolicy.build(pipeline, tuning, seed=0, with_reference=False)
