"""Stable Diffusion 1, 2 and XL: a U-Net that predicts the noise, or the velocity, of a latent image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.utils.state_dict_utils import convert_state_dict_to_diffusers
from PIL.Image import Image
from torch import Tensor

from fine_tune.policies.base import prepare_network
from fine_tune.policies.denoising import DiffusionDenoising
from fine_tune.policies.latent import (
    EMBEDDINGS,
    LATENTS,
    POOLED,
    LatentEncoder,
    LatentFamily,
    LatentPolicy,
    Noised,
    drawn,
)
from tgo_pipeline.devices import to_device
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import FineTuneParams
from tgo_pipeline.planning.families import Conditions, Parts

TIME_IDS = "time_ids"
REFUSED = {
    "class_embed_type": "classes",
    "encoder_hid_dim_type": "images",
    "time_cond_proj_dim": "the guidance scale",
}
"""Settings of a U-Net that make it take more conditions, and which; None in the models that can be tuned."""


class DiffusionEncoder(LatentEncoder):
    """The VAE and the text encoder of Stable Diffusion 1 and 2."""

    def __init__(self, pipeline: StableDiffusionPipeline, size: tuple[int | None, int | None]) -> None:
        super().__init__(pipeline, size, default=_own_size(pipeline))

    @torch.no_grad()
    def prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """`embeddings` (N, L, D), computed as the pipeline does when it samples."""
        device = self.pipeline.text_encoder.device
        embeddings, _ = self.pipeline.encode_prompt(list(prompts), device, 1, False)
        return {EMBEDDINGS: embeddings.float().cpu()}


class DiffusionXLEncoder(LatentEncoder):
    """The VAE and both text encoders of SDXL.

    The empty prompt, to which captions are dropped, is encoded as the pipeline's unconditional input: zeros where
    its config has `force_zeros_for_empty_prompt`. That is the branch that guidance subtracts when sampling without a
    negative prompt; the encoding of the empty text would be a branch that sampling never uses.
    """

    def __init__(self, pipeline: StableDiffusionXLPipeline, size: tuple[int | None, int | None]) -> None:
        super().__init__(pipeline, size, default=_own_size(pipeline))

    def images(self, images: Sequence[Image]) -> dict[str, Tensor]:
        """Besides `latents`, `time_ids` (N, 6): original size, top left corner and target size, heights first."""
        width, height = self.size
        time_ids = torch.tensor([height, width, 0, 0, height, width], dtype=torch.float32)
        return {**super().images(images), TIME_IDS: time_ids.repeat(len(images), 1)}

    @torch.no_grad()
    def prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """`embeddings` (N, L, D1 + D2), the penultimate states of both encoders, and `pooled` (N, D2)."""
        device = self.pipeline.text_encoder_2.device
        embeddings, unconditional, pooled, unconditional_pooled = self.pipeline.encode_prompt(
            list(prompts), device=device, do_classifier_free_guidance="" in prompts
        )
        if "" in prompts:
            empty = torch.tensor([prompt == "" for prompt in prompts], device=device)
            embeddings = torch.where(empty[:, None, None], unconditional, embeddings)
            pooled = torch.where(empty[:, None], unconditional_pooled, pooled)
        return {EMBEDDINGS: embeddings.float().cpu(), POOLED: pooled.float().cpu()}


class DiffusionFamily(LatentFamily):
    """Stable Diffusion 1 and 2, imagined."""

    velocity = False  # v-prediction costs the same

    def conditions(self, parts: Parts, rows: int) -> Conditions:
        """The last but one states of both text encoders, (rows, L, 2048) in the official sizes, and the pooled one."""
        return {EMBEDDINGS: parts["text_encoder"](self._ids("tokenizer", rows))[0]}


class DiffusionXLFamily(DiffusionFamily):
    """SDXL, imagined; its unconditional input is zeros where its index says so."""

    @property
    def encodes_negative(self) -> bool:  # type: ignore[override]
        return not self.blueprint.index.get("force_zeros_for_empty_prompt", True)

    def conditions(self, parts: Parts, rows: int) -> Conditions:
        first = parts["text_encoder"](self._ids("tokenizer", rows), output_hidden_states=True)
        second = parts["text_encoder_2"](self._ids("tokenizer_2", rows), output_hidden_states=True)
        embeddings = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        return {EMBEDDINGS: embeddings, POOLED: second[0]}

    def feed(self, x: Tensor, conditions: Mapping[str, Tensor]) -> Noised:
        return super().feed(x, {TIME_IDS: torch.zeros(len(x), 6), **conditions})

    def encode(self, parts: Parts, rows: int) -> Conditions:
        return {**super().encode(parts, rows), TIME_IDS: torch.zeros(rows, 6)}


class DiffusionPolicy(LatentPolicy):
    """Stable Diffusion 1 and 2; z_t = alpha_t z + sigma_t eps with t uniform over the training timesteps."""

    component = "unet"
    family = DiffusionFamily
    pipeline_class = StableDiffusionPipeline
    addition: str | None = None
    """`addition_embed_type` of the U-Nets that fit."""

    def __init__(
        self,
        network: UNet2DConditionModel,
        params: FineTuneParams,
        *,
        scheduler: DDPMScheduler,
        frozen: UNet2DConditionModel | None = None,
    ) -> None:
        super().__init__(network, params, frozen=frozen)
        self._scheduler = scheduler
        self._x0_scale, self._drawn = _x0_scale(scheduler), _timesteps(scheduler, params.levels)

    @classmethod
    def encoder(cls, pipeline: Any, size: tuple[int | None, int | None]) -> LatentEncoder:
        return DiffusionEncoder(pipeline, size)

    @classmethod
    def build(
        cls, pipeline: Any, params: FineTuneParams, *, seed: int, with_reference: bool
    ) -> DiffusionPolicy:
        """Train all of `pipeline.unet`, or an adapter on it whose first values are drawn from `seed`."""
        scheduler = _training_scheduler(pipeline)
        _check_network(pipeline.unet.config, cls.addition)
        network, frozen = prepare_network(pipeline, cls, params, seed=seed, with_reference=with_reference)
        return cls(network, params, scheduler=scheduler, frozen=frozen)

    def corrupt(
        self, images: Mapping[str, Tensor], conditions: Mapping[str, Tensor], seeds: Sequence[int]
    ) -> Noised:
        """Draw t ~ U{0, ..., T-1} and eps ~ N(0, 1) of each sample on the CPU, then noise (DDPM, eq. 4).

        With `noise_levels` t is uniform over the timesteps whose level is one of them. The target is eps, or
        alpha_t eps - sigma_t z for v-prediction.
        """
        latents = images[LATENTS]
        draws = [_draw(seed, self._drawn, latents.shape[1:]) for seed in seeds]
        timesteps = torch.stack([t for t, _ in draws])
        x0_scale = to_device(self._x0_scale[timesteps], latents.device)
        timesteps = to_device(timesteps, latents.device)
        noise = to_device(torch.stack([eps for _, eps in draws]), latents.device)
        noised = self._scheduler.add_noise(latents, noise, timesteps)  # type: ignore[arg-type]
        if self._scheduler.config["prediction_type"] == "v_prediction":
            target = self._scheduler.get_velocity(latents, noise, timesteps)  # type: ignore[arg-type]
        else:
            target = noise
        extra = {name: rows for name, rows in images.items() if name != LATENTS}
        return Noised(noised, timesteps, target, x0_scale, self._weight(x0_scale), {**conditions, **extra})

    def at_levels(self, levels: Sequence[float]) -> Self:
        """The same networks, with timesteps drawn from these levels."""
        other = super().at_levels(levels)
        other._drawn = _timesteps(self._scheduler, levels)
        return other

    def noise_level(self, corruption: Noised) -> Tensor:
        """(B,) sigma / (alpha + sigma); the scale is sigma / alpha where noise is predicted, else sigma."""
        scale = corruption.x0_scale
        ratio = scale / (1 - scale.square()).sqrt() if _predicts_velocity(self._scheduler) else scale
        return 1 / (1 + 1 / ratio)

    def denoising(self, shape: torch.Size, steps: int, eta: float) -> DiffusionDenoising:
        """DDIM over the model's own schedule, whatever scheduler its pipeline comes with."""
        # neither belongs to latents; DDIM would take both from its defaults where another scheduler has none
        own = {"clip_sample": False, "thresholding": False}
        scheduler = cast(DDIMScheduler, DDIMScheduler.from_config(self._scheduler.config, **own))
        return DiffusionDenoising(scheduler, steps, eta)

    def forward(self, network: Any, corruption: Noised) -> Tensor:
        embeddings = corruption.conditions[EMBEDDINGS]
        return network(corruption.latents, corruption.timesteps, embeddings, return_dict=False)[0]

    def _adapter_layers(self) -> dict[str, Tensor]:
        return convert_state_dict_to_diffusers(super()._adapter_layers())


class DiffusionXLPolicy(DiffusionPolicy):
    """Stable Diffusion XL: its U-Net also sees pooled embeddings and the sizes that an image was trained at."""

    family = DiffusionXLFamily
    pipeline_class = StableDiffusionXLPipeline
    addition = "text_time"

    @classmethod
    def encoder(cls, pipeline: Any, size: tuple[int | None, int | None]) -> LatentEncoder:
        return DiffusionXLEncoder(pipeline, size)

    def forward(self, network: Any, corruption: Noised) -> Tensor:
        """(B, C, h, w) of latents, timesteps, both encoders' states, the pooled one and the sizes."""
        conditions = corruption.conditions
        added = {"text_embeds": conditions[POOLED], "time_ids": conditions[TIME_IDS]}
        return network(
            corruption.latents,
            corruption.timesteps,
            conditions[EMBEDDINGS],
            added_cond_kwargs=added,
            return_dict=False,
        )[0]


def _draw(seed: int, timesteps: range, shape: torch.Size) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    t = torch.randint(timesteps.start, timesteps.stop, (), generator=generator)
    return t, torch.randn(shape, generator=generator)


def _x0_scale(scheduler: DDPMScheduler) -> Tensor:
    """(T,) float32 factors from the error of a prediction to that of the denoised latents.

    z^ = (z_t - sigma eps^) / alpha, so |z^ - z| = (sigma / alpha) |eps^ - eps|; and z^ = alpha z_t - sigma v^, so
    |z^ - z| = sigma |v^ - v|.
    """
    kept = scheduler.alphas_cumprod.double()  # alpha_t^2 = 1 - sigma_t^2
    return (1 - kept if _predicts_velocity(scheduler) else (1 - kept) / kept).sqrt().float()


def _timesteps(scheduler: DDPMScheduler, levels: Sequence[float]) -> range:
    """The timesteps whose sigma / (alpha + sigma) is within the levels. Raises `TgoError` if there is none."""
    kept = scheduler.alphas_cumprod.double()
    alpha, sigma = kept.sqrt(), (1 - kept).sqrt()
    return drawn(sigma / (alpha + sigma), levels)


def _predicts_velocity(scheduler: DDPMScheduler) -> bool:
    return scheduler.config["prediction_type"] == "v_prediction"


def _own_size(pipeline: Any) -> tuple[int, int]:
    """(width, height) in pixels that the U-Net was made for."""
    sample = pipeline.unet.config["sample_size"]
    height, width = (sample, sample) if isinstance(sample, int) else sample
    return width * pipeline.vae_scale_factor, height * pipeline.vae_scale_factor


def _training_scheduler(pipeline: Any) -> DDPMScheduler:
    config = pipeline.scheduler.config
    if "beta_schedule" not in config:
        raise TgoError(
            f"the model's scheduler is a {type(pipeline.scheduler).__name__}, which has no schedule of betas: this "
            "U-Net was not trained as a DDPM and cannot be tuned here."
        )
    scheduler = cast(DDPMScheduler, DDPMScheduler.from_config(config))
    prediction = scheduler.config["prediction_type"]
    if prediction not in ("epsilon", "v_prediction"):
        raise TgoError(
            f"the model's scheduler has prediction_type {prediction!r}: only epsilon and v_prediction can be tuned."
        )
    return scheduler


def _check_network(config: Mapping[str, Any], addition: str | None) -> None:
    if config["in_channels"] != config["out_channels"]:
        raise TgoError(
            f"the model's U-Net takes {config['in_channels']} channels and predicts {config['out_channels']} "
            "(an inpainting or editing model, say): only plain text-to-image models can be tuned."
        )
    more = [what for key, what in REFUSED.items() if config[key] is not None]
    if more or config["addition_embed_type"] != addition:
        raise TgoError(
            f"the model's U-Net takes other conditions than its pipeline's prompt ({', '.join(more) or 'added ones'}): "
            "only plain text-to-image models can be tuned."
        )
