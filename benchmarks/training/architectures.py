"""Stable Diffusion 1.5 and XL with random weights: the official block structure, at full width or narrower."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection

from benchmarks.rewards.inputs import captions, random_image
from tgo_pipeline.rewards.networks.tokenizers import hugging_face_tokenizer

SD15, SDXL = "sd15", "sdxl"
PER_PROMPT = 2
PIXELS_PER_LATENT = 8


@dataclass(frozen=True)
class Scale:
    """How much smaller than the official networks: widths by a divisor, latents and tokens by themselves.

    Tokens shrink with the area of the latents, or the text encoder would weigh more than it does at full size.
    """

    divisor: int
    latent_size: dict[str, int]
    tokens: int
    groups: int
    shallow: bool = False
    """One text layer, one transformer layer in a block: to see that everything runs."""


SCALES = {
    "full": Scale(1, {SD15: 64, SDXL: 128}, tokens=77, groups=32),
    "small": Scale(4, {SD15: 16, SDXL: 16}, tokens=4, groups=16),
    "toy": Scale(8, {SD15: 8, SDXL: 8}, tokens=4, groups=8, shallow=True),
}


@dataclass(frozen=True)
class Examples:
    """What is trained on: pixels (N, H, W, 3) uint8, two images a prompt, and what a threshold made of scores."""

    pixels: np.ndarray
    prompts: list[str]
    label: np.ndarray
    weight: np.ndarray
    score: np.ndarray


def examples(architecture: str, size: str, count: int) -> Examples:
    """The same images, prompts, labels and weights for every side."""
    pixels = SCALES[size].latent_size[architecture] * PIXELS_PER_LATENT
    score = np.random.default_rng(0).normal(size=count)
    return Examples(
        np.stack([np.asarray(random_image(index, pixels)) for index in range(count)]),
        captions(count, PER_PROMPT),
        (score >= 0).astype(np.int8),
        (1 + 5 * np.abs(score)).astype(np.float32),
        score.astype(np.float32),
    )


def unet_config(architecture: str, size: str) -> dict[str, Any]:
    """Arguments of the U-Net's class, as in the official `unet/config.json`."""
    scale = SCALES[size]
    common = {"sample_size": scale.latent_size[architecture], "norm_num_groups": scale.groups}
    if architecture == SD15:
        return common | {
            "block_out_channels": _widths(scale, 320, 640, 1280, 1280),
            "cross_attention_dim": 768 // scale.divisor,
            "attention_head_dim": 8,
        }
    return common | {
        "block_out_channels": _widths(scale, 320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": 1 if scale.shallow else (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048 // scale.divisor,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256 // scale.divisor,
        "projection_class_embeddings_input_dim": (1280 + 6 * 256) // scale.divisor,
    }


def build_pipeline(architecture: str, size: str, device: torch.device) -> Any:
    """The whole pipeline of the library, the same weights at every call."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        parts = _parts(architecture, size)
    if architecture == SD15:
        optional: dict[str, Any] = {"safety_checker": None, "feature_extractor": None}
        return StableDiffusionPipeline(**parts, **optional, requires_safety_checker=False).to(device)
    return StableDiffusionXLPipeline(**parts, add_watermarker=False).to(device)


def _parts(architecture: str, size: str) -> dict[str, Any]:
    scale = SCALES[size]
    parts = {
        "unet": UNet2DConditionModel(**unet_config(architecture, size)),
        "vae": _vae(scale, scaling=0.18215 if architecture == SD15 else 0.13025),
        "scheduler": _scheduler(),
        "tokenizer": hugging_face_tokenizer(context_length=scale.tokens),
        "text_encoder": CLIPTextModel(_text_config(scale, 768, 12, 12, "quick_gelu")),
    }
    if architecture == SDXL:
        parts["tokenizer_2"] = hugging_face_tokenizer(context_length=scale.tokens)
        parts["text_encoder_2"] = CLIPTextModelWithProjection(_text_config(scale, 1280, 32, 20, "gelu"))
    return parts


def _vae(scale: Scale, scaling: float) -> AutoencoderKL:
    config: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 4,
        "up_block_types": ("UpDecoderBlock2D",) * 4,
        "block_out_channels": _widths(scale, 128, 256, 512, 512),
        "norm_num_groups": scale.groups,
    }
    return AutoencoderKL(**config, layers_per_block=2, scaling_factor=scaling)


def _text_config(scale: Scale, width: int, layers: int, heads: int, activation: str) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=49408,
        hidden_size=width // scale.divisor,
        intermediate_size=4 * width // scale.divisor,
        projection_dim=width // scale.divisor,
        num_hidden_layers=2 if scale.shallow else layers,  # the last but one is what SDXL reads
        num_attention_heads=heads,
        max_position_embeddings=scale.tokens,
        hidden_act=activation,
        bos_token_id=49406,
        eos_token_id=49407,
    )


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def _widths(scale: Scale, *channels: int) -> tuple[int, ...]:
    return tuple(width // scale.divisor for width in channels)
