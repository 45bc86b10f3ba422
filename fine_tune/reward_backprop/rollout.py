"""Sampling with a gradient: from each sample's own noise to latents, by the family's steps, as a route says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fine_tune.data.batches import TrainingBatch
from fine_tune.policies.denoising import Denoising
from fine_tune.policies.latent import LATENTS, LatentPolicy, Noised
from fine_tune.reward_backprop.objectives import Route
from fine_tune.training.accelerator import Accelerator
from tgo_pipeline.devices import to_device
from tgo_pipeline.params.reward_gradient import RewardGradientParams


@dataclass(frozen=True)
class Sampled:
    """One pass of a gradient: clean latents, and how far the predictions on the way are from the reference's."""

    latents: Tensor
    drift: Tensor
    """(B,) mean squared distance over steps and latent pixels; with a gradient where `kl` weighs it."""


class Noise:
    """Standard normal latents, those of a sample from its own seed, drawn on the CPU as pipelines draw them."""

    def __init__(self, seeds: Sequence[int], like: Tensor) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        self._shape = like.shape[1:]
        self._device = like.device

    def draw(self) -> Tensor:
        """(B, C, h, w), other ones every time."""
        drawn = [torch.randn(self._shape, generator=each) for each in self._generators]
        return to_device(torch.stack(drawn), self._device)


class Rollout:
    """Samples the prompts of a batch with the network in training."""

    def __init__(
        self, policy: LatentPolicy, params: RewardGradientParams, accelerator: Accelerator, recompute: bool
    ) -> None:
        """With `recompute` every step's activations are made again in the backward pass."""
        self._policy = policy
        self._params = params
        self._accelerator = accelerator
        self._recompute = recompute

    @property
    def guides(self) -> bool:
        """Whether a step asks the network without the prompt too, as pipelines do at scales above 1."""
        return self._policy.has_guidance and self._params.guidance_scale > 1

    def sample(self, part: TrainingBatch, route: Route) -> Iterator[Sampled]:
        """Yield what the gradient passes, one after the other; let go of each before asking for the next."""
        like = part.images[LATENTS]
        way = self._policy.denoising(like.shape, self._params.steps, self._params.eta)
        conditions = self._conditions(part)
        noise = self._noise([seeds[0] for seeds in part.seeds], like)
        latents = noise.draw()
        with torch.no_grad():
            for index in range(route.first):
                prediction = self._predict(latents, way.timesteps[index], conditions)
                latents = way.step(index, prediction, latents, noise.draw() if way.noisy else None)
        for _ in range(route.repeats):
            again = way.noised(len(way) - 1, latents, noise.draw())
            yield self._onward(way, len(way) - 1, again, conditions, noise)
        if route.jumps:
            yield self._jump(way, route.first, latents, conditions)
        elif not route.repeats:
            yield self._onward(way, route.first, latents, conditions, noise)

    def _onward(
        self, way: Denoising, first: int, latents: Tensor, conditions: Mapping[str, Tensor], noise: Noise
    ) -> Sampled:
        """The steps from `first` on, with gradient."""
        drifts = []
        for index in range(first, len(way)):
            before, timestep = latents, way.timesteps[index]
            prediction = self._with_gradient(before, timestep, conditions)
            latents = way.step(index, prediction, before, noise.draw() if way.noisy else None)
            if self._params.kl or index == len(way) - 1:
                drifts.append(self._drift(prediction, before, timestep, conditions))
        return Sampled(latents, torch.stack(drifts).mean(0))

    def _jump(self, way: Denoising, index: int, latents: Tensor, conditions: Mapping[str, Tensor]) -> Sampled:
        prediction = self._with_gradient(latents, way.timesteps[index], conditions)
        drift = self._drift(prediction, latents, way.timesteps[index], conditions)
        return Sampled(way.denoised(index, prediction, latents), drift)

    def _with_gradient(self, latents: Tensor, timestep: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        if not self._recompute:
            return self._predict(latents, timestep, conditions)
        predicted: Any = checkpoint(self._predict, latents, timestep, conditions, use_reentrant=False)
        return predicted

    def _predict(self, latents: Tensor, timestep: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """The active network's prediction after guidance, float32: u + g (c - u)."""
        rows = torch.cat([latents, latents]) if self.guides else latents
        with self._accelerator.autocast():
            prediction = self._policy.predict(self._policy.sampled(rows, timestep, conditions))
        if not self.guides:
            return prediction
        without, with_prompt = prediction.chunk(2)
        return without + self._params.guidance_scale * (with_prompt - without)

    def _drift(
        self, prediction: Tensor, latents: Tensor, timestep: Tensor, conditions: Mapping[str, Tensor]
    ) -> Tensor:
        """(B,) mean squared distance to the reference's prediction of the same latents, after guidance."""
        with self._policy.reference():
            before = self._predict(latents.detach(), timestep, conditions)
        prediction = prediction if self._params.kl else prediction.detach()
        corruption: Noised = self._policy.sampled(latents, timestep, {})
        return self._policy.distance(prediction, before, corruption)

    def _noise(self, seeds: Sequence[int], like: Tensor) -> Noise:
        return Noise(seeds, like)

    def _conditions(self, part: TrainingBatch) -> dict[str, Tensor]:
        """What the network sees besides latents: first without the prompts, if a step asks that too."""
        more = {name: rows for name, rows in part.images.items() if name != LATENTS}
        own = {**part.conditions, **more}
        if not self.guides:
            return own
        without = {**part.other_conditions, **more}
        return {name: torch.cat([without[name], rows]) for name, rows in own.items()}
