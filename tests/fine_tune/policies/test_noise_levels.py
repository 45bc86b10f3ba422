"""Which noise levels each family trains on: all as before, or those of a range, from its own distribution cut to it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fine_tune.job import _numbers
from fine_tune.policies import policy_class
from fine_tune.policies.base import Policy
from fine_tune.policies.latent import Noised
from fine_tune.policies.masked import draw_mask
from tests.fine_tune import world
from tests.tiny import tiny_diffusion_pipeline
from tests.tiny_families import tiny_flux_pipeline, tiny_sd3_pipeline, tiny_sdxl_pipeline
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.params import FineTuneParams

COUNT = 3000
LATENT: dict[str, Callable[[Path], Path]] = {
    "sd": tiny_diffusion_pipeline,
    "sd-v": lambda folder: tiny_diffusion_pipeline(folder, "v_prediction"),
    "sdxl": tiny_sdxl_pipeline,
    "sd3": tiny_sd3_pipeline,
    "flux": tiny_flux_pipeline,
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {name: write(tmp_path_factory.mktemp(name)) for name, write in LATENT.items()}


def build(folder: Path, **fine_tune: Any) -> Policy[Noised]:
    pipeline = load_pipeline(str(folder))
    tuning = world.params(folder, **fine_tune).fine_tune
    return policy_class(pipeline).build(pipeline, tuning, seed=0, with_reference=False)


def drawn(policy: Policy[Noised], count: int = COUNT) -> Noised:
    channels = policy.network.config["in_channels"]  # type: ignore[index,union-attr]
    return policy.corrupt({"latents": torch.zeros(count, channels, 4, 4)}, {}, range(count))


def below(distances: np.ndarray) -> bool:
    """Whether uniform numbers, sorted, are as even as chance allows (Kolmogorov-Smirnov, p = .001)."""
    ideal = (np.arange(len(distances)) + 0.5) / len(distances)
    return bool(np.abs(np.sort(distances) - ideal).max() < 1.95 / math.sqrt(len(distances)) + 2e-3)


@pytest.mark.parametrize("name", LATENT)
def test_by_default_every_draw_is_what_it_was(folders, name: str) -> None:
    found = drawn(build(folders[name]), 20)
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        if name in ("sd3", "flux"):
            place = torch.randn((), generator=generator).sigmoid()
            expected = build(folders[name])._schedule(found.latents.shape)[
                (place * 1000).long().clamp(max=999)
            ]  # type: ignore[attr-defined]
            assert found.timesteps[seed] == expected * 1000
        else:
            assert found.timesteps[seed] == torch.randint(1000, (), generator=generator)
        noise = torch.randn(found.latents.shape[1:], generator=generator)
        assert torch.equal(found.latents[seed] != 0, noise != 0)


@pytest.mark.parametrize("levels", [[0.5, 1.0], [0.3, 0.6], [0.0, 0.2]])
@pytest.mark.parametrize("name", LATENT)
def test_levels_are_within_the_range_and_what_they_are_called(
    folders, name: str, levels: list[float]
) -> None:
    policy = build(folders[name], noise_levels=levels)
    found = drawn(policy, 300)
    level = policy.noise_level(found).double().numpy()
    t = found.timesteps.double().numpy()
    if name in ("sd3", "flux"):
        expected = t / 1000
    else:
        betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
        alpha = np.sqrt(np.cumprod(1 - betas)[found.timesteps.numpy()])
        expected = np.sqrt(1 - alpha**2) / (alpha + np.sqrt(1 - alpha**2))
    np.testing.assert_allclose(level, expected, rtol=1e-4)
    assert levels[0] - 1e-6 <= level.min() and level.max() <= levels[1] + 1e-6
    assert level.max() - level.min() > 0.8 * (min(levels[1], expected.max()) - max(levels[0], expected.min()))


def test_the_draw_of_timesteps_is_uniform_over_those_of_the_range(folders) -> None:
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alpha = np.sqrt(np.cumprod(1 - betas)[400])
    sigma = np.sqrt(1 - alpha**2)
    found = drawn(build(folders["sd"], noise_levels=[float(sigma / (alpha + sigma)), 1.0]), 50).timesteps
    assert found.tolist() == [
        int(torch.randint(400, 1000, (), generator=torch.Generator().manual_seed(seed))) for seed in range(50)
    ]


def test_on_the_small_world_two_fifths_of_the_schedule_are_the_level_point_538() -> None:
    kept = load_pipeline("demo").scheduler.alphas_cumprod[400].double()  # type: ignore[attr-defined]
    alpha, sigma = kept.sqrt(), (1 - kept).sqrt()
    assert float(sigma) == pytest.approx(0.759, abs=5e-4)
    assert float(sigma / (alpha + sigma)) == pytest.approx(0.538, abs=5e-4)


@pytest.mark.parametrize("timesteps", ["logit_normal", "uniform"])
@pytest.mark.parametrize("levels", [[0.0, 1.0], [0.7, 1.0], [0.4, 0.9]])
def test_a_flow_draws_from_its_own_distribution_cut_to_the_range(
    folders, timesteps: str, levels: list[float]
) -> None:
    policy = build(folders["sd3"], timesteps=timesteps, noise_levels=levels)
    sigma = drawn(policy).timesteps.double().numpy() / 1000

    def share(of: np.ndarray | float) -> np.ndarray:
        """How much of the whole distribution lies above a sigma: the shift of 3 is undone, and the grid's step."""
        place = 1 - np.asarray(of) / (3 - 2 * np.asarray(of))
        if timesteps == "uniform":
            return place
        logit = np.log(place.clip(1e-12) / (1 - place).clip(1e-12))
        return np.vectorize(lambda x: 0.5 * (1 + math.erf(x / math.sqrt(2))))(logit)

    first, last = share(levels[1]), share(levels[0])
    assert below((share(sigma) - first) / (last - first))


@pytest.mark.parametrize("levels", [[0.0, 1.0], [0.809, 1.0], [0.2, 0.5]])
def test_masks_are_drawn_from_their_own_distribution_cut_to_the_range(levels: list[float]) -> None:
    progress = np.array([float(draw_mask(seed, 64, levels)[0]) for seed in range(COUNT)])
    first, last = (math.acos(level) * 2 / math.pi for level in reversed(levels))
    assert below((progress - first) / (last - first))
    share = np.array([int(draw_mask(seed, 64, levels)[1].sum()) for seed in range(300)]) / 64
    assert levels[0] - 0.5 / 64 <= share.min() and share.max() <= levels[1] + 0.5 / 64


def test_masks_of_all_levels_and_of_progress_up_to_two_fifths_are_what_they_were() -> None:
    for seed in range(50):
        uniform = torch.rand((), generator=torch.Generator().manual_seed(seed))
        assert draw_mask(seed, 64)[0] == uniform
        torch.testing.assert_close(draw_mask(seed, 64, [math.cos(0.2 * math.pi), 1.0])[0], 0.4 * uniform)


def test_a_range_without_a_timestep_is_refused(folders) -> None:
    with pytest.raises(TgoError, match=r"noise_levels is \[0\.999, 1\]: no timestep.*from 0\.028 to 0\.936"):
        build(folders["sd"], noise_levels=[0.999, 1.0])


@pytest.mark.parametrize("levels", [[0.5], [0.6, 0.4], [-0.1, 1.0], [0.0, 1.5], [0.5, 0.5], []])
def test_what_is_no_range_is_refused(levels: list[float]) -> None:
    with pytest.raises(
        TgoError, match=r"noise_levels is \[.*\]: it must be the lowest and the highest level"
    ):
        FineTuneParams(noise_levels=levels)


def test_a_family_of_ones_own_that_draws_from_all_levels_is_refused(folders) -> None:
    class Own(Policy[Any]):
        encoder = build = corrupt = forward = log_likelihood = distance = None  # type: ignore[assignment]

    Own.__abstractmethods__ = frozenset()  # type: ignore[misc]
    network = torch.nn.Linear(1, 1)
    Own(network, FineTuneParams())
    with pytest.raises(
        TgoError, match=r"Own does not say its noise levels: leave fine_tune.noise_levels at \[0, 1\]"
    ):
        Own(network, FineTuneParams(noise_levels=[0.5, 1.0]))


def test_all_levels_are_no_part_of_a_fingerprint() -> None:
    default = FineTuneParams()
    assert "noise_levels" not in _numbers(default) and "safeguard" not in _numbers(default)
    other = dataclasses.replace(default, noise_levels=[0.5, 1.0], safeguard=0.0)
    assert _numbers(other)["noise_levels"] == [0.5, 1.0] and _numbers(other)["safeguard"] == 0.0
