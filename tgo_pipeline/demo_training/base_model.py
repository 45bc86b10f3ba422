"""Train the small world's base model: a `StableDiffusionPipeline` at tiny size, on spoilt images.

The base has seen every caption and every nuisance: it can draw well and often does not. Each part is trained alone,
from a seed, with a checkpoint, and is skipped where its result exists: tokenizer, VAE, then UNet and text encoder.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from tgo_pipeline.demo import world
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.storage.writing import atomic

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from transformers import CLIPTextModel, CLIPTokenizer

log = logging.getLogger("tgo")
CONTEXT_TOKENS = 16
"""The longest caption has 14 tokens; a context that cut captions off once looked like slow learning (docs/LOG.md)."""
LATENT_CHANNELS = 8
LATENT_SIZE = world.SIZE_PX // 4
"""A VAE of factor 4: shapes of 4 pixels radius survive it (docs/LOG.md)."""
TEXT_WIDTH = 64
SCHEDULE = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "clip_sample": False,
    "set_alpha_to_one": False,
    "steps_offset": 1,
    "timestep_spacing": "trailing",
}
"""The betas of Stable Diffusion; "trailing" begins few steps at full noise, as it is in training."""


@dataclass(frozen=True)
class BaseTraining:
    """How long and how fast each part is trained."""

    images: int = 49_152
    vae_steps: int = 1_500
    vae_batch: int = 24
    vae_learning_rate: float = 2e-3
    decoder_steps: int = 4_000
    decoder_learning_rate: float = 2e-3
    unet_steps: int = 6_000
    unet_batch: int = 64
    unet_learning_rate: float = 1e-3
    caption_dropout: float = 0.1
    ema: float = 0.999
    checkpoint_every: int = 500


def train_base(folder: Path, seed: int, training: BaseTraining | None = None) -> Path:
    """Train what `folder` lacks and return the folder of the finished pipeline, `folder/diffusion` (float32)."""
    training = training or BaseTraining()
    result = folder / "diffusion"
    if (result / "model_index.json").is_file():
        return result
    # the word is part of the seed: with another, other images would be drawn than the shipped weights saw
    captions, images = training_images(training.images, derive_seed(seed, "base", "pictures"))
    vae = train_vae(folder / "vae.pt", images, seed, training)
    latents = encode(vae, images)
    train_decoder(folder / "decoder.pt", vae, images, seed, training)
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    log.info("latent standard deviation %.4f", latents.std())
    pipeline = build_pipeline(vae, folder / "tokenizer", seed)
    train_unet(folder / "unet.pt", pipeline, captions, latents * vae.config["scaling_factor"], seed, training)
    pipeline.save_pretrained(result)
    return result


def training_images(count: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Captions, each family as often as the others, and a spoilt image of each, (N, 32, 32, 3) uint8."""
    rng = np.random.default_rng(seed)
    captions = world.random_captions(count, rng)
    return captions, world.images(captions, int(rng.integers(2**31)))


def to_tensor(images: np.ndarray) -> Tensor:
    """(N, 32, 32, 3) uint8 to (N, 3, 32, 32) float in [-1, 1]."""
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1


def build_vae() -> AutoencoderKL:
    """A factor-4 VAE whose posterior starts nearly certain."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,  # type: ignore[arg-type]
        up_block_types=("UpDecoderBlock2D",) * 3,  # type: ignore[arg-type]
        block_out_channels=(12, 24, 48),  # type: ignore[arg-type]
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=LATENT_CHANNELS,
        sample_size=world.SIZE_PX,
    )
    moments = vae.quant_conv
    with torch.no_grad():
        moments.weight[LATENT_CHANNELS:] = 0  # type: ignore[union-attr]
        moments.bias[LATENT_CHANNELS:] = -6  # type: ignore[union-attr]
    return vae


def train_vae(path: Path, images: np.ndarray, seed: int, training: BaseTraining) -> AutoencoderKL:
    """Train the VAE on absolute and squared error, objects weighing more than backgrounds."""
    torch.manual_seed(derive_seed(seed, "vae", "initialise"))
    vae = build_vae()

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng(derive_seed(seed, str(step), "vae"))
        real = to_tensor(images[rng.integers(len(images), size=training.vae_batch)])
        posterior = vae.encode(real).latent_dist  # type: ignore[union-attr]
        noise = torch.from_numpy(rng.standard_normal(posterior.mean.shape).astype(np.float32))
        drawn = vae.decode(posterior.mean + posterior.std * noise).sample  # type: ignore[union-attr]
        return object_error(drawn, real) + 1e-5 * posterior.kl().mean()

    optimise(
        path, vae, loss, training.vae_steps, training.vae_learning_rate, training.checkpoint_every, "vae"
    )
    return vae


def train_decoder(
    path: Path, vae: AutoencoderKL, images: np.ndarray, seed: int, training: BaseTraining
) -> None:
    """Train the decoder further on latents that stay as they are; the UNet can be trained meanwhile."""
    decoder = nn.ModuleList([vae.post_quant_conv, vae.decoder])  # type: ignore[list-item]

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng(derive_seed(seed, str(step), "decoder"))
        real = to_tensor(images[rng.integers(len(images), size=training.vae_batch)])
        with torch.no_grad():
            posterior = vae.encode(real).latent_dist  # type: ignore[union-attr]
        noise = torch.from_numpy(rng.standard_normal(posterior.mean.shape).astype(np.float32))
        drawn = vae.decode(posterior.mean + posterior.std * noise).sample  # type: ignore[union-attr]
        return object_error(drawn, real)

    optimise(
        path,
        decoder,
        loss,
        training.decoder_steps,
        training.decoder_learning_rate,
        training.checkpoint_every,
        "decoder",
    )


def object_error(drawn: Tensor, real: Tensor) -> Tensor:
    """Absolute and squared error of images in [-1, 1], a pixel of the object weighing as much as four others."""
    error = drawn - real
    return ((1 + 3 * is_object(real)) * (error.abs() + 2 * error.square())).mean()


def is_object(images: Tensor) -> Tensor:
    """1 where a pixel differs from the median colour of the frame, (B, 1, H, W)."""
    frame = torch.cat([images[:, :, :2].flatten(2), images[:, :, -2:].flatten(2)], 2).median(2).values
    return ((images - frame[:, :, None, None]).abs().amax(1, keepdim=True) > 0.3).float()


@torch.no_grad()
def encode(vae: AutoencoderKL, images: np.ndarray, batch: int = 256) -> Tensor:
    """Means of the posterior, (N, C, 8, 8), not scaled."""
    vae.eval()
    parts = [
        vae.encode(to_tensor(images[i : i + batch])).latent_dist.mean  # type: ignore[union-attr]
        for i in range(0, len(images), batch)
    ]
    return torch.cat(parts)


@cache
def merges() -> list[str]:
    """Byte-pair merges, trained until every word of the small world's language is one token."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    words = {
        word
        for family in world.FAMILIES
        for text in world.captions(family)
        for word in text.replace(",", "").split()
    }
    tokenizer = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=10_000, min_frequency=1, end_of_word_suffix="</w>", show_progress=False
    )
    tokenizer.train_from_iterator(sorted(words), trainer)
    return [" ".join(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """A `CLIPTokenizer` over the small world's words; every other text still has tokens, byte by byte."""
    from tgo_pipeline.rewards.networks.tokenizers import hugging_face_tokenizer

    tokenizer = hugging_face_tokenizer(merges(), CONTEXT_TOKENS)
    tokenizer.save_pretrained(folder)
    return tokenizer


def build_pipeline(vae: AutoencoderKL, tokenizer_folder: Path, seed: int) -> StableDiffusionPipeline:
    """The untrained pipeline around a trained VAE."""
    from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
    from diffusers.schedulers.scheduling_ddim import DDIMScheduler
    from transformers import CLIPTextConfig, CLIPTextModel

    tokenizer = write_tokenizer(tokenizer_folder)
    torch.manual_seed(derive_seed(seed, "unet", "initialise"))
    unet = UNet2DConditionModel(
        sample_size=LATENT_SIZE,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        block_out_channels=(48, 96),
        layers_per_block=1,
        norm_num_groups=8,
        cross_attention_dim=TEXT_WIDTH,
        attention_head_dim=4,
    )
    text_encoder = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=TEXT_WIDTH,
            intermediate_size=4 * TEXT_WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=CONTEXT_TOKENS,
            bos_token_id=tokenizer.bos_token_id,  # type: ignore[arg-type]
            eos_token_id=tokenizer.eos_token_id,  # type: ignore[arg-type]
            pad_token_id=tokenizer.pad_token_id,  # type: ignore[arg-type]
        )
    )
    return StableDiffusionPipeline(
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DDIMScheduler(**SCHEDULE),  # type: ignore[arg-type]
        safety_checker=None,  # type: ignore[arg-type]
        feature_extractor=None,  # type: ignore[arg-type]
        requires_safety_checker=False,
    )


class Denoiser(nn.Module):
    """UNet and text encoder as one module: noise of noisy latents (B, C, 8, 8) from token ids (B, T)."""

    def __init__(self, unet: UNet2DConditionModel, text_encoder: CLIPTextModel) -> None:
        super().__init__()
        self.unet = unet
        self.text_encoder = text_encoder

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        embeddings = self.text_encoder(tokens).last_hidden_state
        return self.unet(noisy, timesteps, embeddings).sample


def train_unet(
    path: Path,
    pipeline: StableDiffusionPipeline,
    captions: list[str],
    latents: Tensor,
    seed: int,
    training: BaseTraining,
) -> None:
    """Train UNet and text encoder to predict the noise; the pipeline ends with the moving average of the weights."""
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler

    scheduler: Any = DDPMScheduler.from_config(pipeline.scheduler.config)
    tokens = tokenise(pipeline.tokenizer, captions)
    empty = tokenise(pipeline.tokenizer, [""])
    denoiser = Denoiser(pipeline.unet, pipeline.text_encoder)
    denoiser.train()

    def loss(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(seed, str(step), "unet"))
        rows = torch.randint(len(latents), (training.unet_batch,), generator=generator)
        timesteps = torch.randint(scheduler.config["num_train_timesteps"], rows.shape, generator=generator)
        noise = torch.randn(latents[rows].shape, generator=generator)
        dropped = torch.rand(rows.shape, generator=generator) < training.caption_dropout
        text = torch.where(dropped[:, None], empty, tokens[rows])
        noisy = scheduler.add_noise(latents[rows], noise, timesteps)  # type: ignore[arg-type]
        return (denoiser(noisy, timesteps, text) - noise).square().mean()

    optimise(
        path,
        denoiser,
        loss,
        training.unet_steps,
        training.unet_learning_rate,
        training.checkpoint_every,
        "unet",
        ema=training.ema,
    )
    denoiser.eval()


def tokenise(tokenizer: Any, texts: list[str]) -> Tensor:
    """Token ids padded to the context length, (N, T)."""
    return tokenizer(
        texts, padding="max_length", max_length=CONTEXT_TOKENS, truncation=True, return_tensors="pt"
    ).input_ids


def optimise(
    path: Path,
    module: nn.Module,
    loss: Callable[[int], Tensor],
    steps: int,
    learning_rate: float,
    checkpoint_every: int,
    name: str,
    ema: float | None = None,
) -> None:
    """AdamW with warm-up and cosine; resumes from `path` and leaves the (averaged) final weights in `module`."""
    optimizer = torch.optim.AdamW(module.parameters(), learning_rate, weight_decay=0.01)
    scale = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _warm_cosine(step, steps))
    average = {key: value.detach().clone() for key, value in module.state_dict().items()}
    start = _resume(path, module, optimizer, scale, average)
    recent: list[float] = []
    for step in range(start, steps):
        value = loss(step)
        optimizer.zero_grad()
        value.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        scale.step()
        _average(average, module, min(ema, (step + 1) / (step + 10)) if ema else 0.0)
        recent.append(value.item())
        if (step + 1) % 100 == 0:
            log.info("%s step %d of %d: loss %.4f", name, step + 1, steps, np.mean(recent[-100:]))
        if (step + 1) % checkpoint_every == 0 or step + 1 == steps:
            _save(path, step + 1, module, optimizer, scale, average)
    module.load_state_dict(average)


def _warm_cosine(step: int, steps: int) -> float:
    warm = min(200, steps // 10)
    if step < warm:
        return (step + 1) / warm
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (step - warm) / (steps - warm)))


@torch.no_grad()
def _average(average: dict[str, Tensor], module: nn.Module, decay: float) -> None:
    for key, value in module.state_dict().items():
        if value.is_floating_point():
            average[key].lerp_(value, 1 - decay)


def _parts(module: nn.Module, optimizer: Any, scale: Any) -> Iterator[tuple[str, Any]]:
    yield from (("module", module), ("optimizer", optimizer), ("scale", scale))


def _save(
    path: Path, step: int, module: nn.Module, optimizer: Any, scale: Any, average: dict[str, Tensor]
) -> None:
    state = {name: part.state_dict() for name, part in _parts(module, optimizer, scale)}
    with atomic(path) as temporary:
        torch.save({"step": step, "average": average, **state}, temporary)


def _resume(path: Path, module: nn.Module, optimizer: Any, scale: Any, average: dict[str, Tensor]) -> int:
    if not path.is_file():
        return 0
    state = torch.load(path, weights_only=True)
    for name, part in _parts(module, optimizer, scale):
        part.load_state_dict(state[name])
    average.update(state["average"])
    return state["step"]
