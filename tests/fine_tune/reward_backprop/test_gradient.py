"""Every gradient against an independent chain in double precision, and that chain against finite differences."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fine_tune.reward_backprop.objectives import Route
from tests.fine_tune.reward_backprop.chains import SEEDS, STEP_SEED, World, away, build, smooth
from tests.tiny import tiny_diffusion_pipeline
from tests.tiny_families import tiny_sd3_pipeline

STEPS, SCALE, ETA = 4, 3.0, 0.6
OWN = {"steps": STEPS, "guidance_scale": SCALE, "eta": ETA, "scale": 0.5, "margin": 0.3}
PATHS: dict[str, tuple[str, dict[str, Any]]] = {
    "all steps": ("align_prop", {**OWN, "truncation": "fixed", "first": 0}),
    "a random step on": ("align_prop", {**OWN, "mean": 2.0, "deviation": 1.0}),
    "the last step": ("draft", {**OWN, "last": 1}),
    "the last two, tied": ("draft", {**OWN, "last": 2, "kl": 0.7, "loss": "absolute"}),
    "low variance": ("draft_lv", {**OWN, "repeats": 2, "kl": 0.2}),
    "one late image": ("refl", {**OWN, "earliest": 1, "latest": 2, "loss": "relu", "margin": 9.0, "kl": 0.3}),
    "with pretraining": ("refl", {**OWN, "earliest": 3, "latest": 3, "loss": "linear", "pretraining": 0.4}),
}


class Independent:
    """DDIM (eq. 12), guidance, decoding and the losses, written down again in float64 for one batch.

    What lies before the route's first step does not move with the weights: it is computed once.
    """

    def __init__(self, world: World, own: dict[str, Any], route: Route) -> None:
        self.network = copy.deepcopy(world.policy.network).double()
        self.before = copy.deepcopy(world.policy._frozen).double()
        self.vae = copy.deepcopy(world.pipeline.vae).double()
        self.own = {"kl": 0.0, "pretraining": 0.0, "loss": "linear", **own}
        self.route = route
        part = world.part
        self.prompted, self.empty = (
            c["embeddings"].double() for c in (part.conditions, part.other_conditions)
        )
        self.label, self.clean = part.label.double(), part.images["latents"].double()
        beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()
        self.kept = torch.cumprod(1 - beta, 0)
        self.times = [1 + 1000 // STEPS * number for number in reversed(range(STEPS))]
        generators = [torch.Generator().manual_seed(seed) for seed in SEEDS]
        shape = self.clean.shape[1:]
        self.draw: Callable[[], Tensor] = lambda: torch.stack(
            [torch.randn(shape, generator=each) for each in generators]
        ).double()
        start = self.draw()
        self.noises = [self.draw() for _ in range(STEPS)]
        with torch.no_grad():
            for index in range(min(route.first, STEPS)):
                start, _ = self.step(index, start, self.noises[index])
        self.start = start
        if route.repeats:
            self.noises = [self.draw() for _ in range(2 * route.repeats)]

    def predict(self, network: Any, latents: Tensor, time: int) -> Tensor:
        times = torch.full((len(latents),), time)
        without = network(latents, times, self.empty, return_dict=False)[0]
        with_prompt = network(latents, times, self.prompted, return_dict=False)[0]
        return without + SCALE * (with_prompt - without)

    def step(self, index: int, latents: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """The next latents, and the squared distance to the reference."""
        predicted = self.predict(self.network, latents, self.times[index])
        now = self.kept[self.times[index]]
        later = self.kept[max(0, self.times[index] - 1000 // STEPS)]
        spread = ETA * ((1 - later) / (1 - now) * (1 - now / later)).sqrt()
        image = (latents - (1 - now).sqrt() * predicted) / now.sqrt()
        onward = later.sqrt() * image + (1 - later - spread**2).sqrt() * predicted + spread * noise
        with torch.no_grad():
            reference = self.predict(self.before, latents, self.times[index])
        return onward, (predicted - reference).square().mean((1, 2, 3))

    def passes(self) -> list[tuple[Tensor, Tensor]]:
        """(latents, drift) of each pass of the gradient."""
        if self.route.repeats:
            now = self.kept[self.times[-1]]
            again = [now.sqrt() * self.start + (1 - now).sqrt() * noise for noise in self.noises[::2]]
            rows = zip(again, self.noises[1::2], strict=True)
            return [self.step(STEPS - 1, latents, noise) for latents, noise in rows]
        if self.route.jumps:
            time = self.times[self.route.first]
            now, predicted = self.kept[time], self.predict(self.network, self.start, time)
            reference = self.predict(self.before, self.start, time).detach()
            image = (self.start - (1 - now).sqrt() * predicted) / now.sqrt()
            return [(image, (predicted - reference).square().mean((1, 2, 3)))]
        latents, drifts = self.start, []
        for index in range(self.route.first, STEPS):
            latents, drift = self.step(index, latents, self.noises[index])
            drifts.append(drift)
        return [(latents, torch.stack(drifts).mean(0))]

    def loss(self) -> Tensor:
        """The mean loss of the batch."""
        costs = []
        for latents, drift in self.passes():
            decoded = self.vae.decode(latents / self.vae.config["scaling_factor"], return_dict=False)[0]
            missing = self.own["margin"] - smooth((decoded / 2 + 0.5).clamp(0, 1))
            shaped = {"linear": missing, "relu": missing.clamp(min=0), "absolute": missing.abs()}
            costs.append(self.own["scale"] * shaped[self.own["loss"]] + self.own["kl"] * drift)
        return torch.stack(costs).mean() + self.own["pretraining"] * self.pretraining()

    def pretraining(self) -> Tensor:
        if not self.own["pretraining"]:
            return torch.zeros((), dtype=torch.float64)
        errors = []
        for row, seed in enumerate(SEEDS):
            generator = torch.Generator().manual_seed(seed)
            time = torch.randint(1000, (), generator=generator)
            noise = torch.randn(self.clean.shape[1:], generator=generator).double()
            noised = self.kept[time].sqrt() * self.clean[row] + (1 - self.kept[time]).sqrt() * noise
            said = self.network(noised[None], time[None], self.prompted[row : row + 1], return_dict=False)[0]
            errors.append(self.label[row] * (said - noise).square().mean())
        return torch.stack(errors).mean()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_diffusion_pipeline(tmp_path_factory.mktemp("model"))


def made(folder: Path, path: str, **runtime: Any) -> World:
    objective, own = PATHS[path]
    world = build(folder, objective, own, runtime)
    away(world)
    return world


def flat(tensors: dict[str, Tensor]) -> Tensor:
    return torch.cat([tensors[name].flatten().double() for name in sorted(tensors)])


@pytest.mark.parametrize("path", PATHS)
def test_a_gradient_is_that_of_the_formulas(path: str, folder: Path) -> None:
    world = made(folder, path)
    found, measured = world.backward()
    route = world.objective.route(STEP_SEED)
    independent = Independent(world, PATHS[path][1], route)
    loss = independent.loss()
    loss.backward()
    expected = {name: p.grad for name, p in independent.network.named_parameters() if p.grad is not None}
    assert set(found) == set(expected) and flat(found).any()
    assert float(measured.losses.double().mean()) == pytest.approx(float(loss.detach()), rel=2e-4)
    difference = (flat(found) - flat(expected)).norm() / flat(expected).norm()
    assert difference < 2e-3, difference


@pytest.mark.parametrize("path", ["all steps", "low variance", "one late image"])
def test_the_formulas_gradient_is_that_of_finite_differences(path: str, folder: Path) -> None:
    world = made(folder, path)
    independent = Independent(world, PATHS[path][1], world.objective.route(STEP_SEED))
    independent.loss().backward()
    parameters = list(independent.network.parameters())
    generator = torch.Generator().manual_seed(2)
    direction = [torch.randn(p.shape, generator=generator).double() for p in parameters]
    slope = sum(
        float((p.grad * d).sum()) for p, d in zip(parameters, direction, strict=True) if p.grad is not None
    )

    def at(size: float) -> float:
        with torch.no_grad():
            for p, d in zip(parameters, direction, strict=True):
                p += size * d
            value = float(independent.loss())
            for p, d in zip(parameters, direction, strict=True):
                p -= size * d
        return value

    size = 1e-6
    assert (at(size) - at(-size)) / (2 * size) == pytest.approx(slope, rel=1e-3)


@pytest.mark.parametrize("path", ["a random step on", "low variance", "with pretraining"])
def test_parts_and_recomputing_leave_the_gradient(path: str, folder: Path) -> None:
    whole, _ = made(folder, path).backward()
    for runtime in ({"micro_batch_size": 2}, {"gradient_checkpointing": True, "micro_batch_size": 1}):
        world = made(folder, path, **runtime)
        if "gradient_checkpointing" in runtime:
            world.policy.save_memory()
        parts, _ = world.backward()
        torch.testing.assert_close(flat(parts), flat(whole), rtol=1e-3, atol=1e-4 * flat(whole).abs().max())


def test_the_gradient_of_a_flow_model_is_that_of_the_formulas(tmp_path: Path) -> None:
    own = {"steps": 3, "guidance_scale": 2.0, "last": 2, "kl": 0.5}
    world = build(tiny_sd3_pipeline(tmp_path / "model"), "draft", own)
    away(world)
    found, _ = world.backward()
    network, before, vae = (
        copy.deepcopy(each).double()
        for each in (world.policy.network, world.policy._frozen, world.pipeline.vae)
    )
    least = 3 / 1000 / (1 + 2 / 1000)
    levels = torch.linspace(1.0, least, 3, dtype=torch.float64)
    levels = [*(3 * levels / (1 + 2 * levels)).tolist(), 0.0]
    part = world.part

    def velocity(asked: Any, latents: Tensor, level: float) -> Tensor:
        said = [
            asked(
                hidden_states=latents,
                timestep=torch.full((len(latents),), 1000 * level, dtype=torch.float64),
                encoder_hidden_states=each["embeddings"].double(),
                pooled_projections=each["pooled"].double(),
                return_dict=False,
            )[0]
            for each in (part.other_conditions, part.conditions)
        ]
        return said[0] + 2.0 * (said[1] - said[0])

    noise = [
        torch.randn(part.images["latents"].shape[1:], generator=torch.Generator().manual_seed(s))
        for s in SEEDS
    ]
    latents, drifts = torch.stack(noise).double(), []
    for index in range(3):
        with torch.set_grad_enabled(index > 0):
            said = velocity(network, latents, levels[index])
        if index > 0:
            with torch.no_grad():
                other = velocity(before, latents, levels[index])
            drifts.append((said - other).square().mean((1, 2, 3)))
        latents = latents + (levels[index + 1] - levels[index]) * said
    decoded = vae.decode(latents / 1.5305 + 0.0609, return_dict=False)[0]
    score = smooth((decoded / 2 + 0.5).clamp(0, 1))
    (-score + 0.5 * torch.stack(drifts).mean(0)).mean().backward()
    expected = {name: p.grad for name, p in network.named_parameters() if p.grad is not None}
    difference = (flat({n: found[n] for n in expected}) - flat(expected)).norm() / flat(expected).norm()
    assert difference < 2e-3, difference


def test_an_adapter_alone_has_a_gradient_and_drifts_from_the_base(folder: Path) -> None:
    world = build(folder, "draft", {"steps": 3, "last": 2}, method="lora", lora={"rank": 2})
    found, measured = world.backward()
    assert all("lora" in name for name in found) and measured.values["drift"].max() == 0
    away(world, 0.1)
    _, measured = world.backward()
    assert measured.values["drift"].min() > 0
