"""Stable Diffusion 3 and FLUX: a transformer that predicts the velocity from a latent image to noise."""

from __future__ import annotations

import abc
import math
from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import numpy as np
import torch
from diffusers.models.transformers.transformer_flux import FluxTransformer2DModel
from diffusers.models.transformers.transformer_sd3 import SD3Transformer2DModel
from diffusers.pipelines.flux.pipeline_flux import FluxPipeline, calculate_shift
from diffusers.pipelines.stable_diffusion_3.pipeline_stable_diffusion_3 import StableDiffusion3Pipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from fine_tune.policies.base import prepare_network
from fine_tune.policies.denoising import FlowDenoising
from fine_tune.policies.latent import (
    EMBEDDINGS,
    LATENTS,
    POOLED,
    LatentEncoder,
    LatentFamily,
    LatentPolicy,
    Noised,
    drawn,
    rows,
)
from tgo_pipeline.devices import to_device
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import FineTuneParams
from tgo_pipeline.planning.families import Conditions, Parts

SD3_T5_TOKENS, FLUX_T5_TOKENS = 256, 512
"""The defaults of the pipelines (`max_sequence_length` for T5)."""
FLUX_SIZE = 128
"""`default_sample_size` of the FLUX pipeline: latent pixels of a side, whatever the model's configuration says."""
FLUX_PATCH = 2
"""Side of the square of latent pixels that FLUX packs into one token; its config's `patch_size` is another."""


class SD3Encoder(LatentEncoder):
    """The VAE and the text encoders of SD3: two of CLIP, and T5 where the pipeline has it."""

    def __init__(self, pipeline: StableDiffusion3Pipeline, size: tuple[int | None, int | None]) -> None:
        own = pipeline.default_sample_size * pipeline.vae_scale_factor
        super().__init__(pipeline, size, default=(own, own), patch=pipeline.patch_size)
        limit = pipeline.transformer.config["pos_embed_max_size"]
        side = limit * pipeline.patch_size * pipeline.vae_scale_factor
        if max(self.size) > side:
            raise TgoError(
                f"generate.width and height are {self.size[0]} and {self.size[1]}: the model has positions for at "
                f"most {side} pixels a side."
            )

    @torch.no_grad()
    def prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """`embeddings` (N, L, D), those of CLIP padded to the width of T5's and T5's (zeros without T5) after them,
        and `pooled` (N, D1 + D2) of both CLIP encoders."""
        texts: Any = list(prompts)
        device = self.pipeline.text_encoder.device
        embeddings, _, pooled, _ = self.pipeline.encode_prompt(
            texts, texts, texts, device=device, do_classifier_free_guidance=False
        )
        return {EMBEDDINGS: embeddings.float().cpu(), POOLED: pooled.float().cpu()}


class FluxEncoder(LatentEncoder):
    """The VAE and the text encoders of FLUX: the states of T5 and the pooled output of CLIP."""

    def __init__(self, pipeline: FluxPipeline, size: tuple[int | None, int | None]) -> None:
        own = pipeline.default_sample_size * pipeline.vae_scale_factor
        super().__init__(pipeline, size, default=(own, own), patch=FLUX_PATCH)

    @torch.no_grad()
    def prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """`embeddings` (N, L, D) and `pooled` (N, D2), computed as the pipeline does when it samples."""
        device = self.pipeline.text_encoder.device
        embeddings, pooled, _ = self.pipeline.encode_prompt(list(prompts), device=device)
        return {EMBEDDINGS: embeddings.float().cpu(), POOLED: pooled.float().cpu()}


class SD3Family(LatentFamily):
    """SD3 and SD3.5, imagined: two encoders of CLIP and T5, or zeros in its place."""

    def conditions(self, parts: Parts, rows: int) -> Conditions:
        """Both CLIP encoders' states beside each other, padded to T5's width, T5's behind them, and both pooled."""
        pooled, states = [], []
        for name, tokenizer in (("text_encoder", "tokenizer"), ("text_encoder_2", "tokenizer_2")):
            output = parts[name](self._ids(tokenizer, rows), output_hidden_states=True)
            pooled.append(output[0])
            states.append(output.hidden_states[-2])
        clip = torch.cat(states, dim=-1)
        width = self.config["joint_attention_dim"]
        clip = torch.nn.functional.pad(clip, (0, width - clip.shape[-1]))
        return {
            EMBEDDINGS: torch.cat([clip, self._t5(parts, rows, width)], -2),
            POOLED: torch.cat(pooled, -1),
        }

    def _t5(self, parts: Parts, rows: int, width: int) -> Tensor:
        if "text_encoder_3" not in parts:
            return torch.zeros(rows, SD3_T5_TOKENS, width)
        return parts["text_encoder_3"](torch.zeros(rows, SD3_T5_TOKENS, dtype=torch.long))[0]


class FluxFamily(LatentFamily):
    """FLUX.1, imagined; guidance is a number that the network is told."""

    def own_size(self) -> tuple[int, int]:
        return FLUX_SIZE * self.scale, FLUX_SIZE * self.scale

    def guided(self, guidance_scale: float) -> bool:
        return False

    def conditions(self, parts: Parts, rows: int) -> Conditions:
        """T5's states, (rows, 512, 4096) in the official sizes, and CLIP's pooled ones."""
        pooled = parts["text_encoder"](self._ids("tokenizer", rows)).pooler_output
        ids = torch.zeros(rows, FLUX_T5_TOKENS, dtype=torch.long)
        return {EMBEDDINGS: parts["text_encoder_2"](ids)[0], POOLED: pooled}


class FlowPolicy(LatentPolicy):
    """z_sigma = (1 - sigma) z + sigma eps, and the velocity eps - z as target (rectified flow, arXiv 2403.03206).

    sigma is drawn from the schedule that the pipeline samples with at one step per training timestep, shifted as the
    pipeline shifts it. The index into it is logit-normal(0, 1), or uniform; `noise_levels` cut its distribution to the
    indices whose sigma, the noise level of a flow, is one of them.
    """

    component = "transformer"
    lora_targets = (
        *LatentPolicy.lora_targets,
        "add_q_proj",
        "add_k_proj",
        "add_v_proj",
        "to_add_out",
    )

    def __init__(
        self,
        network: Any,
        params: FineTuneParams,
        *,
        scheduler: FlowMatchEulerDiscreteScheduler,
        frozen: Any = None,
    ) -> None:
        super().__init__(network, params, frozen=frozen)
        self._scheduler = scheduler

    @classmethod
    def build(cls, pipeline: Any, params: FineTuneParams, *, seed: int, with_reference: bool) -> Self:
        """Train all of `pipeline.transformer`, or an adapter on it whose first values are drawn from `seed`."""
        scheduler = cls.training_scheduler(pipeline)
        _check_network(pipeline.transformer.config)
        network, frozen = prepare_network(pipeline, cls, params, seed=seed, with_reference=with_reference)
        return cls(network, params, scheduler=scheduler, frozen=frozen)

    @classmethod
    def training_scheduler(cls, pipeline: Any) -> FlowMatchEulerDiscreteScheduler:
        """A scheduler of its own, so that sampling while training does not disturb it."""
        if not isinstance(pipeline.scheduler, FlowMatchEulerDiscreteScheduler):
            given = type(pipeline.scheduler).__name__
            raise TgoError(
                f"the model's scheduler is a {given}: only FlowMatchEulerDiscreteScheduler, which the published models "
                "come with, says how to shift the timesteps of a training."
            )
        return cast(
            FlowMatchEulerDiscreteScheduler,
            FlowMatchEulerDiscreteScheduler.from_config(pipeline.scheduler.config),
        )

    def corrupt(
        self, images: Mapping[str, Tensor], conditions: Mapping[str, Tensor], seeds: Sequence[int]
    ) -> Noised:
        """Draw sigma and eps ~ N(0, 1) of each sample on the CPU, then mix.

        u_z = z_sigma - sigma u, so the denoised prediction's squared error is sigma^2 times the velocity's.
        """
        latents = images[LATENTS]
        schedule = self._schedule(latents.shape)
        kept = drawn(schedule, self.params.levels)
        draws = [self._draw(seed, kept, len(schedule), latents.shape[1:]) for seed in seeds]
        sigma = to_device(schedule[torch.stack([index for index, _ in draws])], latents.device)
        noise = to_device(torch.stack([eps for _, eps in draws]), latents.device)
        share = rows(sigma, latents)
        return Noised(
            latents=(1 - share) * latents + share * noise,
            timesteps=sigma * self._scheduler.config["num_train_timesteps"],
            target=noise - latents,
            x0_scale=sigma,
            weight=self._weight(sigma),
            conditions=conditions,
        )

    def noise_level(self, corruption: Noised) -> Tensor:
        return corruption.x0_scale

    def _draw(self, seed: int, kept: range, count: int, shape: torch.Size) -> tuple[Tensor, Tensor]:
        """An index of `kept`, a part of a schedule of `count` steps, and noise."""
        generator = torch.Generator().manual_seed(seed)
        ends = torch.tensor([kept.start / count, kept.stop / count], dtype=torch.float64)
        if self.params.timesteps == "uniform":
            place = _between(ends.float(), torch.rand((), generator=generator))
        else:
            normal = torch.randn((), generator=generator)
            place = (normal if len(kept) == count else _truncated(normal, ends.logit())).sigmoid()
        index = (place * count).long().clamp(kept.start, kept.stop - 1)
        return index, torch.randn(shape, generator=generator)

    def _schedule(self, shape: torch.Size) -> Tensor:
        """(T,) sigmas from 1 downwards; the shift may depend on how many tokens latents of this shape have."""
        count = self._scheduler.config["num_train_timesteps"]
        self._scheduler.set_timesteps(
            sigmas=cast(Any, np.linspace(1.0, 1 / count, count)), mu=self._shift(shape)
        )
        return cast(Tensor, self._scheduler.sigmas)[:count]

    def _shift(self, shape: torch.Size) -> float | None:
        config = self._scheduler.config
        if not config["use_dynamic_shifting"]:
            return None
        tokens = math.prod(side // self._patch() for side in shape[-2:])
        return calculate_shift(
            tokens,
            config["base_image_seq_len"],
            config["max_image_seq_len"],
            config["base_shift"],
            config["max_shift"],
        )

    def denoising(self, shape: torch.Size, steps: int, eta: float) -> FlowDenoising:
        """The pipeline's own steps of Euler. Raises `TgoError` for noise on the way, of which these have none."""
        if eta:
            raise TgoError(
                f"eta is {eta:g}, the noise that steps of DDIM add: a flow model is sampled without, set it to 0."
            )
        if self._scheduler.config.get("stochastic_sampling"):
            raise TgoError(
                "the model's scheduler has stochastic_sampling, whose steps are no steps of Euler: set it to false in "
                "its configuration."
            )
        self._scheduler.set_timesteps(steps, mu=self._shift(shape), **self._levels(steps))
        sigmas, timesteps = cast(Any, self._scheduler.sigmas), cast(Any, self._scheduler.timesteps)
        return FlowDenoising(sigmas, timesteps)

    def _levels(self, steps: int) -> dict[str, Any]:
        """What the pipeline tells its scheduler besides the number of steps."""
        return {}

    @abc.abstractmethod
    def _patch(self) -> int:
        """How many latent pixels a token has on each side."""


class SD3Policy(FlowPolicy):
    """Stable Diffusion 3 and 3.5."""

    family = SD3Family
    pipeline_class = StableDiffusion3Pipeline

    @classmethod
    def encoder(cls, pipeline: Any, size: tuple[int | None, int | None]) -> LatentEncoder:
        return SD3Encoder(pipeline, size)

    def _patch(self) -> int:
        return cast(SD3Transformer2DModel, self.network).config["patch_size"]

    def forward(self, network: Any, corruption: Noised) -> Tensor:
        """(B, C, h, w) velocities of latents."""
        return network(
            hidden_states=corruption.latents,
            timestep=corruption.timesteps,
            encoder_hidden_states=corruption.conditions[EMBEDDINGS],
            pooled_projections=corruption.conditions[POOLED],
            return_dict=False,
        )[0]


class FluxPolicy(FlowPolicy):
    """FLUX.1 dev and schnell: tokens of 2x2 latent pixels with their positions, and timesteps from 0 to 1.

    A guidance-distilled model (dev) sees the guidance scale `fine_tune.embedded_guidance`, schnell sees none.
    """

    family = FluxFamily
    pipeline_class = FluxPipeline
    has_guidance = False

    @classmethod
    def encoder(cls, pipeline: Any, size: tuple[int | None, int | None]) -> LatentEncoder:
        return FluxEncoder(pipeline, size)

    def _patch(self) -> int:
        return FLUX_PATCH

    def _levels(self, steps: int) -> dict[str, Any]:
        return {"sigmas": np.linspace(1.0, 1 / steps, steps)}

    def forward(self, network: Any, corruption: Noised) -> Tensor:
        """(B, C, h, w) velocities; the network sees latents in packs of 2 x 2, and a timestep from 0 to 1."""
        latents, embeddings = corruption.latents, corruption.conditions[EMBEDDINGS]
        (count, channels, height, width), device = latents.shape, latents.device
        with device:  # made there: a copy would wait for it
            image_ids = FluxPipeline._prepare_latent_image_ids(
                count, height // FLUX_PATCH, width // FLUX_PATCH, device, latents.dtype
            )
        prediction = network(
            hidden_states=FluxPipeline._pack_latents(latents, count, channels, height, width),
            timestep=corruption.timesteps / 1000,
            guidance=self._guidance(count, device),
            pooled_projections=corruption.conditions[POOLED],
            encoder_hidden_states=embeddings,
            txt_ids=torch.zeros(embeddings.shape[1], 3, device=device),
            img_ids=image_ids,
            return_dict=False,
        )[0]
        return FluxPipeline._unpack_latents(prediction, height, width, vae_scale_factor=1)

    def _guidance(self, count: int, device: torch.device) -> Tensor | None:
        if not cast(FluxTransformer2DModel, self.network).config["guidance_embeds"]:
            return None
        return torch.full((count,), self.params.embedded_guidance, device=device)


def _truncated(normal: Tensor, ends: Tensor) -> Tensor:
    """What has the normal distribution cut to between two ends, at the quantile of a normal number."""
    share = _between(torch.special.ndtr(ends), torch.special.ndtr(normal.double()))
    return torch.special.ndtri(share).float()


def _between(ends: Tensor, share: Tensor) -> Tensor:
    """The number at a share of the way from the first to the second of two."""
    return ends[0] + share * (ends[1] - ends[0])


def _check_network(config: Mapping[str, Any]) -> None:
    predicted = config["out_channels"] or config["in_channels"]
    if config["in_channels"] != predicted:
        raise TgoError(
            f"the model's transformer takes {config['in_channels']} channels and predicts {predicted} "
            "(an inpainting or editing model, say): only plain text-to-image models can be tuned."
        )
