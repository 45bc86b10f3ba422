"""From noise to a clean latent image in the steps of a family's sampler, in operations that gradients pass."""

from __future__ import annotations

import abc
from typing import Any

from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from torch import Tensor

from tgo_pipeline.errors import TgoError


class Denoising(abc.ABC):
    """Sampling in N steps: what a prediction of the network makes of the latents at one of them."""

    timesteps: Tensor
    """(N,) in the scheduler's units, from noise to clean."""
    noisy = False
    """Whether every step adds noise, which it is given."""

    def __len__(self) -> int:
        return len(self.timesteps)

    @abc.abstractmethod
    def step(self, index: int, prediction: Tensor, latents: Tensor, noise: Tensor | None = None) -> Tensor:
        """The latents of the next step; clean ones after the last."""

    @abc.abstractmethod
    def denoised(self, index: int, prediction: Tensor, latents: Tensor) -> Tensor:
        """The clean latents that the prediction stands for."""

    @abc.abstractmethod
    def noised(self, index: int, clean: Tensor, noise: Tensor) -> Tensor:
        """Clean latents as noisy as those that step `index` is given."""


class DiffusionDenoising(Denoising):
    """DDIM (arXiv 2010.02502, eq. 12) by the library's scheduler; `eta` from 0 to 1 is its noise, 1 that of DDPM."""

    def __init__(self, scheduler: DDIMScheduler, steps: int, eta: float) -> None:
        """Raises `TgoError` for more steps than the model was trained with."""
        if steps > (most := scheduler.config["num_train_timesteps"]):
            raise TgoError(
                f"sampling is to take {steps} steps, and the model has {most} noise levels: take fewer."
            )
        scheduler.set_timesteps(steps)
        self.timesteps = scheduler.timesteps
        self.noisy = eta > 0
        self._scheduler = scheduler
        self._eta = eta
        self._numbers = self.timesteps.tolist()  # on the CPU, so that no step waits for a GPU

    def step(self, index: int, prediction: Tensor, latents: Tensor, noise: Tensor | None = None) -> Tensor:
        return self._stepped(index, prediction, latents, self._eta, noise)[0]

    def denoised(self, index: int, prediction: Tensor, latents: Tensor) -> Tensor:
        return self._stepped(index, prediction, latents, 0.0, None)[1]

    def _stepped(
        self, index: int, prediction: Tensor, latents: Tensor, eta: float, noise: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The next latents and the clean ones."""
        number = self._numbers[index]
        taken: Any = self._scheduler.step(
            prediction, number, latents, eta=eta, variance_noise=noise, return_dict=False
        )
        return taken

    def noised(self, index: int, clean: Tensor, noise: Tensor) -> Tensor:
        timesteps = self.timesteps[index].expand(len(clean)).to(clean.device)
        return self._scheduler.add_noise(clean, noise, timesteps)  # type: ignore[arg-type]


class FlowDenoising(Denoising):
    """Euler's steps along the velocity u = eps - z: z_s' = z_s + (s' - s) u, over falling noise levels s."""

    def __init__(self, sigmas: Tensor, timesteps: Tensor) -> None:
        """`sigmas` (N + 1,) falling to 0, `timesteps` (N,), both on the CPU, so that no step waits for a GPU."""
        self.timesteps = timesteps
        self._sigmas = sigmas

    def step(self, index: int, prediction: Tensor, latents: Tensor, noise: Tensor | None = None) -> Tensor:
        return latents + (self._sigmas[index + 1] - self._sigmas[index]) * prediction

    def denoised(self, index: int, prediction: Tensor, latents: Tensor) -> Tensor:
        return latents - self._sigmas[index] * prediction

    def noised(self, index: int, clean: Tensor, noise: Tensor) -> Tensor:
        return (1 - self._sigmas[index]) * clean + self._sigmas[index] * noise
