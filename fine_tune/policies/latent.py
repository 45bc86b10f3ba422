"""What the families that noise the latent image of a VAE have in common: encoding, error, the adapter's file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

import torch
from peft import get_peft_model_state_dict
from PIL import ImageOps
from PIL.Image import Image, Resampling
from torch import Tensor
from torchvision.transforms.functional import pil_to_tensor

from fine_tune.policies.base import Policy, adapter_metadata
from fine_tune.policies.denoising import Denoising
from tgo_pipeline.devices import to_device
from tgo_pipeline.errors import TgoError
from tgo_pipeline.planning.families import Family

LATENTS, EMBEDDINGS, POOLED = "latents", "embeddings", "pooled"


@dataclass(frozen=True)
class Noised:
    """Latents on their way to noise, and what the network should say of them; the first dimension is the batch."""

    latents: Tensor
    """(B, C, ...) a mixture of the clean latents z and the noise eps."""
    timesteps: Tensor
    """(B,) in the scheduler's units (from 0 to 1000)."""
    target: Tensor
    """(B, C, ...) what the network predicts: noise or velocity."""
    x0_scale: Tensor
    """(B,) what turns the error of a prediction into that of the denoised latents."""
    weight: Tensor
    """(B,) of the squared error: 1, or what turns it into the error of the denoised prediction."""
    conditions: Mapping[str, Tensor]
    """What the network sees besides, (B, ...) each."""


class LatentEncoder:
    """The pipeline's VAE, for images of one size; a family adds its text encoders.

    A latent is the mode of the VAE's posterior: the same in every epoch, with no draw of its own. The posterior's
    deviation is far below the noise of any timestep.
    """

    scale_factor: ClassVar[str] = "vae_scale_factor"
    """The pipeline's attribute that says how many pixels a latent pixel's side has."""

    def __init__(
        self, pipeline: Any, size: tuple[int | None, int | None], *, default: tuple[int, int], patch: int = 1
    ) -> None:
        """`size` and `default` are (width, height) in pixels, `patch` the latent pixels of one token's side.

        Raises `TgoError` for a size that does not divide into tokens.
        """
        self.pipeline = pipeline
        self.size = (size[0] or default[0], size[1] or default[1])
        multiple = getattr(pipeline, self.scale_factor) * patch
        if any(side % multiple for side in self.size):
            raise TgoError(
                f"generate.width and height are {self.size[0]} and {self.size[1]}: {type(pipeline).__name__} needs "
                f"multiples of {multiple}."
            )

    @torch.no_grad()
    def images(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """`latents` (N, C, h, w), scaled as the network expects them; other sizes are resized and cropped first."""
        vae = self.pipeline.vae
        pixels = torch.stack([pil_to_tensor(self._fit(image)) for image in images])
        pixels = (to_device(pixels, vae.device).float() / 127.5 - 1.0).to(vae.dtype)
        return {LATENTS: normalise(vae.encode(pixels).latent_dist.mode(), vae.config).float().cpu()}

    def _fit(self, image: Image) -> Image:
        image = image.convert("RGB")
        return image if image.size == self.size else ImageOps.fit(image, self.size, Resampling.LANCZOS)


def normalise(latents: Tensor, config: Mapping[str, Any]) -> Tensor:
    """The inverse of what the pipelines do before they decode."""
    mean, deviation = _moments(latents, config)
    latents = (latents - mean) / deviation
    return (latents - (config.get("shift_factor") or 0.0)) * config.get("scaling_factor", 1.0)


def _moments(latents: Tensor, config: Mapping[str, Any]) -> tuple[Tensor | float, Tensor | float]:
    """Mean and deviation of each channel where a VAE has them (SDXL's descendants)."""
    mean, deviation = config.get("latents_mean"), config.get("latents_std")
    if mean is None or deviation is None:
        return 0.0, 1.0
    shape = (1, -1, *[1] * (latents.ndim - 2))
    return torch.tensor(mean).to(latents).view(shape), torch.tensor(deviation).to(latents).view(shape)


def decode(vae: Any, latents: Tensor) -> Tensor:
    """(N, 3, H, W) images in [0, 1] of latents as the network has them, with gradients, as the pipelines decode."""
    mean, deviation = _moments(latents, vae.config)
    latents = latents / vae.config["scaling_factor"] + (vae.config.get("shift_factor") or 0.0)
    pixels = vae.decode((latents * deviation + mean).to(vae.dtype), return_dict=False)[0]
    return (pixels.float() / 2 + 0.5).clamp(0, 1)


class LatentFamily(Family):
    """Noised latents without content."""

    velocity = True
    """Whether the target is noise less latents and a timestep a fraction; else it is noise, and a whole number."""

    def feed(self, x: Tensor, conditions: Mapping[str, Tensor]) -> Noised:
        timesteps = torch.zeros(len(x), dtype=None if self.velocity else torch.long)
        return Noised(x, timesteps, x, timesteps, timesteps, conditions)

    def corrupt(self, images: Mapping[str, Tensor], conditions: Mapping[str, Tensor], seeds: Any) -> Noised:
        """A corruption in the shapes of training; its numbers are of no account."""
        latents = images[LATENTS]
        noise = torch.randn_like(latents)
        others = {name: rows for name, rows in images.items() if name != LATENTS}
        target = noise - latents if self.velocity else noise
        fed = self.feed(latents + noise, {**conditions, **others})
        return replace(fed, target=target, weight=torch.ones(len(latents)))


class LatentPolicy(Policy[Noised]):
    """log pi(z | prompt) ~ -MSE / T at one timestep and noise, the mean over all latent dimensions in float32."""

    pipeline_class: ClassVar[Any]
    """Its `load_lora_weights` reads the adapter."""
    has_guidance: ClassVar[bool] = True
    """Whether sampling asks the network with and without the prompt; else it is told a guidance scale."""

    def denoising(self, shape: torch.Size, steps: int, eta: float) -> Denoising:
        """Sampling of latents of a shape (B, C, h, w), for objectives that pass a gradient through it.

        `eta` is the share of noise that a step of DDIM adds. Raises `TgoError` where there is no such sampling.
        """
        raise TgoError(
            f"the model family {type(self).__name__} does not say how it is sampled with a gradient: give it a method "
            "`denoising`, or train it with another objective."
        )

    def sampled(self, latents: Tensor, timestep: Tensor, conditions: Mapping[str, Tensor]) -> Noised:
        """What `predict` is given in a step of sampling; a prediction's distance to another one has weight 1."""
        timesteps = to_device(timestep, latents.device).expand(len(latents))
        ones = torch.ones(len(latents), device=latents.device)
        return Noised(latents, timesteps, latents, ones, ones, conditions)

    def log_likelihood(self, prediction: Tensor, corruption: Noised) -> Tensor:
        """(B,) -MSE / T of a prediction; with `loglik_space: x0` the MSE of the denoised prediction."""
        return -self.distance(prediction, corruption.target, corruption) / self.params.temperature

    def distance(self, prediction: Tensor, other: Tensor, corruption: Noised) -> Tensor:
        """(B,) weighted mean squared differences, in the units of the error."""
        return corruption.weight * mean_over_latents((prediction.float() - other.float()).square())

    def _weight(self, x0_scale: Tensor) -> Tensor:
        """(B,) factors of the squared error; those of the denoised prediction's are cut at `x0_weight_max`.

        Where noise is predicted they grow without bound towards pure noise.
        """
        if self.params.loglik_space == "target":
            return torch.ones_like(x0_scale)
        return x0_scale.square().clamp(max=self.params.x0_weight_max)

    def x0_error(self, prediction: Tensor, corruption: Noised) -> Tensor:
        """(B,) as DiffusionNFT's code: errors of the denoised latents, over their means without gradient (1e-5)."""
        error = rows(corruption.x0_scale, prediction) * (prediction.float() - corruption.target.float())
        unit = mean_over_latents(error.detach().abs()).clamp(min=1e-5)
        return mean_over_latents(error.square()) / unit

    def _save_adapter(self, folder: Path) -> None:
        """Write what `load_lora_weights(folder)` of the pipeline reads."""
        content = {
            f"{self.component}_lora_layers": self._adapter_layers(),
            f"{self.component}_lora_adapter_metadata": adapter_metadata(self.network),
        }
        self.pipeline_class.save_lora_weights(folder, **content)

    def _adapter_layers(self) -> dict[str, Tensor]:
        return get_peft_model_state_dict(self.network)


def drawn(of_steps: Tensor, levels: Sequence[float]) -> range:
    """The steps of a schedule whose noise level, which rises or falls along it, is within `levels`.

    All of them for [0, 1], whatever rounding made of the ends. Raises `TgoError` if there is none.
    """
    low, high = levels
    if of_steps.is_meta:  # a plan's schedule has no content, and an update costs the same at every level
        return range(len(of_steps))
    inside = ((of_steps >= low) | (low == 0)) & ((of_steps <= high) | (high == 1))
    if not inside.any():
        raise TgoError(
            f"fine_tune.noise_levels is [{low:g}, {high:g}]: no timestep of the model has a level in it (they are from "
            f"{of_steps.min():.3f} to {of_steps.max():.3f})."
        )
    steps = inside.nonzero().flatten()
    return range(int(steps[0]), int(steps[-1]) + 1)


def mean_over_latents(values: Tensor) -> Tensor:
    """(B,) means of (B, C, ...)."""
    return values.mean(dim=tuple(range(1, values.ndim)))


def rows(values: Tensor, like: Tensor) -> Tensor:
    """(B,) `values` shaped (B, 1, ...) to go with (B, ...) `like`."""
    return values.view(-1, *[1] * (like.ndim - 1))
