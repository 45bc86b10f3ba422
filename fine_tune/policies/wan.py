"""Wan 2.1, text to video: a transformer that predicts the velocity from a latent clip (C, T, h, w) to noise."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self, cast

import numpy as np
import torch
from diffusers.pipelines.wan.pipeline_wan import WanPipeline
from diffusers.schedulers.scheduling_flow_match_euler_discrete import FlowMatchEulerDiscreteScheduler
from PIL import Image
from torch import Tensor
from torch.nn import functional

from fine_tune.policies.denoising import FlowDenoising
from fine_tune.policies.flow import FlowPolicy
from fine_tune.policies.latent import EMBEDDINGS, LATENTS, LatentEncoder, LatentFamily, Noised, normalise
from tgo_pipeline.devices import to_device
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators.sample import check_frames
from tgo_pipeline.params import FineTuneParams, GenerateParams
from tgo_pipeline.planning.blueprint import Blueprint
from tgo_pipeline.planning.disk import Tensors
from tgo_pipeline.planning.families import Conditions, Parts

TEXT_TOKENS = 512
"""The default of the pipeline (`max_sequence_length`); its `encode_prompt` alone has another."""
OWN_SIZE, OWN_FRAMES = (832, 480), 81
"""Width and height, and frames, where none are asked for: the defaults of the pipeline."""
CHARACTERS = 4
"""Of a token, about, in English."""


class WanEncoder(LatentEncoder):
    """The causal VAE and UMT5. The VAE keeps a cache inside while it encodes: one thread at a time."""

    scale_factor = "vae_scale_factor_spatial"

    def __init__(self, pipeline: WanPipeline, size: tuple[int | None, int | None]) -> None:
        super().__init__(pipeline, size, default=OWN_SIZE, patch=pipeline.transformer.config["patch_size"][1])

    @torch.no_grad()
    def images(self, images: Sequence[Any]) -> dict[str, Tensor]:
        """`latents` (N, C, T, h, w) of clips, uint8 (frames, height, width, 3), normalised per channel, in float32.

        Raises `TgoError` unless all have one number of frames, a multiple of 4 and one more.
        """
        vae = self.pipeline.vae
        _check_frames([len(clip) for clip in images], self.pipeline.vae_scale_factor_temporal)
        pixels = torch.stack([self._pixels(clip) for clip in images])
        pixels = to_device(pixels, vae.device).float() / 127.5 - 1.0
        return {
            LATENTS: normalise(vae.encode(pixels.to(vae.dtype)).latent_dist.mode().float(), vae.config).cpu()
        }

    def _pixels(self, clip: np.ndarray) -> Tensor:
        """(3, frames, height, width) of the encoder's size."""
        frames = [np.asarray(self._fit(Image.fromarray(frame))) for frame in clip]
        return torch.from_numpy(np.stack(frames)).permute(3, 0, 1, 2)

    @torch.no_grad()
    def prompts(self, prompts: Sequence[str]) -> dict[str, Tensor]:
        """`embeddings` (N, L, D), computed as the pipeline does when it samples, cut behind the longest prompt.

        What is cut are exact zeros: the pipeline puts them behind every prompt, and the policy puts them back.
        """
        embeddings, _ = self.pipeline.encode_prompt(
            list(prompts),
            do_classifier_free_guidance=False,
            max_sequence_length=TEXT_TOKENS,
            device=self.pipeline.text_encoder.device,
        )
        told = embeddings.any(dim=-1).any(dim=0).nonzero()
        return {EMBEDDINGS: embeddings[:, : int(told.max()) + 1].float().cpu()}


def _check_frames(counts: Sequence[int], scale: int) -> None:
    if len(set(counts)) > 1:
        raise TgoError(
            f"clips of {min(counts)} and of {max(counts)} frames are to be encoded together: give all clips as many "
            "(generate.frames)."
        )
    if (counts[0] - 1) % scale:
        raise TgoError(
            f"a clip has {counts[0]} frames: the model's VAE takes a multiple of {scale} and one more, such as "
            f"{counts[0] - (counts[0] - 1) % scale}."
        )


class WanFamily(LatentFamily):
    """Wan 2.1, imagined: clips, and a guided step as two calls of the network after each other."""

    guides_together = False

    def __init__(
        self, policy: Any, blueprint: Blueprint, generate: GenerateParams, tuning: FineTuneParams
    ) -> None:
        super().__init__(policy, blueprint, generate, tuning)
        self._vae = blueprint.configs[self.vae]
        self._frames_of_latent = 2 ** sum(self._vae["temperal_downsample"])
        check_frames(generate.frames, self._frames_of_latent, blueprint.kind)
        self.frames = generate.frames or OWN_FRAMES

    def scale_of(self, vae: Mapping[str, Any]) -> int:
        return 2 ** (len(vae["dim_mult"]) - 1)

    def own_size(self) -> tuple[int, int]:
        return OWN_SIZE

    def conditions(self, parts: Parts, rows: int) -> Conditions:
        """UMT5's states, (rows, 512, 4096) in the official sizes."""
        ids = torch.zeros(rows, TEXT_TOKENS, dtype=torch.long)
        return {EMBEDDINGS: parts["text_encoder"](ids).last_hidden_state}

    def cached(self, prompt: Tensors, texts: Sequence[str]) -> Tensors:
        """Cut behind the longest prompt of the file, whose tokens are estimated."""
        (_, width), dtype = prompt[EMBEDDINGS]
        tokens = min(TEXT_TOKENS, 1 + max(map(len, texts)) // CHARACTERS)
        return {EMBEDDINGS: ((tokens, width), dtype)}

    def start(self, rows: int) -> Tensor:
        frames = (cast(int, self.frames) - 1) // self._frames_of_latent + 1
        return torch.randn(rows, self._vae["z_dim"], frames, *self.grid)

    def decode(self, parts: Parts, x: Tensor) -> Tensor:
        """In float32, whatever the precision of the transformer."""
        clips = parts[self.vae].decode(x.float(), return_dict=False)[0]
        return (clips * 0.5 + 0.5).clamp(0, 1)

    def encode(self, parts: Parts, rows: int) -> Conditions:
        frames = torch.zeros(rows, 3, cast(int, self.frames), self.height, self.width, dtype=torch.uint8)
        return {LATENTS: parts[self.vae].encode(frames.float() / 127.5 - 1.0).latent_dist.mode() * 1.0}


class WanPolicy(FlowPolicy):
    """Wan 2.1 text-to-video, 1.3B and 14B; the log-likelihood is over all of (C, T, h, w).

    The published models sample with UniPC, whose shift is `flow_shift`; training draws sigma from the same shifted
    schedule at one step per training timestep, without UniPC's rounding of timesteps to whole numbers.
    """

    family = WanFamily
    pipeline_class = WanPipeline
    of_clips = True
    lora_targets = ("to_q", "to_k", "to_v", "to_out.0")

    @classmethod
    def encoder(cls, pipeline: Any, size: tuple[int | None, int | None]) -> LatentEncoder:
        return WanEncoder(pipeline, size)

    @classmethod
    def build(cls, pipeline: Any, params: FineTuneParams, *, seed: int, with_reference: bool) -> Self:
        """As other flow models. Raises `TgoError` for a transformer that sees an image besides the prompt."""
        config = pipeline.transformer.config
        if config.get("image_dim") is not None or config.get("added_kv_proj_dim") is not None:
            raise TgoError(
                "the model's transformer takes an image besides the prompt (image to video): only Wan's text-to-video "
                "models can be tuned."
            )
        return super().build(pipeline, params, seed=seed, with_reference=with_reference)

    @classmethod
    def training_scheduler(cls, pipeline: Any) -> FlowMatchEulerDiscreteScheduler:
        """Of the schedule's shift, which UniPC and Euler's scheduler name differently."""
        config = pipeline.scheduler.config
        shift = config.get("flow_shift", config.get("shift"))
        is_flow = config.get("prediction_type", "flow_prediction") == "flow_prediction"
        if shift is None or not is_flow or not config.get("use_flow_sigmas", True):
            raise TgoError(
                f"{type(pipeline.scheduler).__name__} of the model is without the shifted schedule of a flow: "
                "take UniPCMultistepScheduler with flow_prediction, use_flow_sigmas and flow_shift, as published, or "
                "FlowMatchEulerDiscreteScheduler with shift."
            )
        if config.get("use_dynamic_shifting"):
            raise TgoError(
                "the model's scheduler has use_dynamic_shifting, which Wan's pipeline does not know: set a shift."
            )
        return FlowMatchEulerDiscreteScheduler(config["num_train_timesteps"], shift=shift)

    def denoising(self, shape: torch.Size, steps: int, eta: float) -> FlowDenoising:
        """Raises `TgoError`: rewards with a gradient read images."""
        raise TgoError(
            "objectives that follow a reward's gradient sample images, and the model draws clips: take one that learns "
            "from scored samples, such as tgo."
        )

    def _patch(self) -> int:
        return cast(Any, self.network).config["patch_size"][1]

    def forward(self, network: Any, corruption: Noised) -> Tensor:
        """(B, C, T, h, w) velocities; the prompt's states are filled up with zeros, which the model attends to."""
        states = corruption.conditions[EMBEDDINGS]
        return network(
            hidden_states=corruption.latents,
            timestep=corruption.timesteps,
            encoder_hidden_states=functional.pad(states, (0, 0, 0, TEXT_TOKENS - states.shape[1])),
            return_dict=False,
        )[0]
