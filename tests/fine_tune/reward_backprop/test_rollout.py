"""Sampling with a gradient gives the images of the pipeline, in every family."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler

from fine_tune.policies.latent import decode
from fine_tune.reward_backprop.objectives import Route
from tests.fine_tune.reward_backprop.chains import PROMPTS, SEEDS, World, build
from tests.rounding import IMAGES
from tests.tiny import tiny_diffusion_pipeline
from tests.tiny_families import tiny_flux_pipeline, tiny_sd3_pipeline, tiny_sdxl_pipeline
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import load_pipeline

STEPS = 4


def drawn(world: World, **options: Any) -> torch.Tensor:
    """What the pipeline itself draws of the same prompts and seeds, (B, 3, H, W) in [0, 1]."""
    generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
    return world.pipeline(
        prompt=list(PROMPTS), generator=generators, num_inference_steps=STEPS, output_type="pt", **options
    ).images


def sampled(world: World, route: Route) -> torch.Tensor:
    (found,) = world.gradient._rollout.sample(world.part, route)
    return decode(world.pipeline.vae, found.latents.detach())


def own(scale: float, eta: float = 0.0) -> dict[str, Any]:
    return {"steps": STEPS, "guidance_scale": scale, "eta": eta}


@pytest.mark.parametrize(("scale", "eta"), [(1.0, 0.0), (3.0, 0.0), (3.0, 0.7)])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
def test_stable_diffusion(prediction: Any, scale: float, eta: float, tmp_path: Path) -> None:
    world = build(tiny_diffusion_pipeline(tmp_path / "model", prediction), "draft", own(scale, eta))
    expected = drawn(world, guidance_scale=scale, eta=eta)
    for first in (0, STEPS - 1):
        torch.testing.assert_close(sampled(world, Route(first)), expected, rtol=0, atol=IMAGES)


def test_sdxl_by_its_own_schedule_whatever_its_scheduler(tmp_path: Path) -> None:
    folder = tiny_sdxl_pipeline(tmp_path / "model")
    world = build(folder, "draft", own(3.0))
    other = load_pipeline(str(folder))
    world.pipeline.scheduler = DDIMScheduler.from_config(other.scheduler.config, clip_sample=False)
    torch.testing.assert_close(
        sampled(world, Route(2)), drawn(world, guidance_scale=3.0), rtol=0, atol=IMAGES
    )


@pytest.mark.parametrize("dynamic", [False, True])
def test_sd3(dynamic: bool, tmp_path: Path) -> None:
    schedule = {"use_dynamic_shifting": True} if dynamic else {}
    world = build(tiny_sd3_pipeline(tmp_path / "model", **schedule), "draft", own(3.0))
    expected = drawn(world, guidance_scale=3.0)
    torch.testing.assert_close(sampled(world, Route(2)), expected, rtol=0, atol=IMAGES)


@pytest.mark.parametrize("dynamic", [False, True])
def test_flux_is_told_its_guidance(dynamic: bool, tmp_path: Path) -> None:
    folder = tiny_flux_pipeline(tmp_path / "model", dynamic=dynamic)
    world = build(folder, "draft", own(7.5), embedded_guidance=2.5)
    assert not world.gradient._rollout.guides
    expected = drawn(world, guidance_scale=2.5, height=32, width=32)
    torch.testing.assert_close(sampled(world, Route(2)), expected, rtol=0, atol=IMAGES)


def test_a_jump_ends_at_the_predicted_image(tmp_path: Path) -> None:
    """At the last step of DDIM without noise the prediction is nearly the image."""
    world = build(tiny_diffusion_pipeline(tmp_path / "model"), "draft", own(1.0))
    late, early = (sampled(world, Route(first, jumps=True)) for first in (STEPS - 1, 0))
    end = sampled(world, Route(STEPS - 1))
    assert (late - end).abs().mean() < 0.1 * (early - end).abs().mean()


def test_repeats_differ_by_their_noise_alone(tmp_path: Path) -> None:
    world = build(tiny_diffusion_pipeline(tmp_path / "model"), "draft", own(1.0))
    passes = list(world.gradient._rollout.sample(world.part, Route(STEPS, repeats=3)))
    again = list(world.gradient._rollout.sample(world.part, Route(STEPS, repeats=3)))
    assert len(passes) == 3 and not torch.equal(passes[0].latents, passes[1].latents)
    assert all(torch.equal(a.latents, b.latents) for a, b in zip(passes, again, strict=True))


@pytest.mark.parametrize(
    ("write", "options", "message"),
    [
        (tiny_sd3_pipeline, {"eta": 1.0}, "eta is 1, .*: a flow model is sampled without, set it to 0"),
        (tiny_diffusion_pipeline, {"steps": 1001}, "take 1001 steps, and the model has 1000 noise levels"),
    ],
)
def test_sampling_that_a_family_lacks_is_refused(
    write: Any, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    world = build(write(tmp_path / "model"), "draft", options)
    with pytest.raises(TgoError, match=message):
        world.backward()
