"""Train the small world's masked base: an `AmusedPipeline` at tiny size on the images that the diffusion base saw.

The tokens are those of a `VQModel` that starts from the diffusion base's VAE; the transformer starts from nothing and
the text encoder from the diffusion base's. As there, each part has a seed and a checkpoint, and what exists is kept.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from tgo_pipeline.demo import world
from tgo_pipeline.demo_training.base_model import (
    LATENT_CHANNELS,
    LATENT_SIZE,
    TEXT_WIDTH,
    object_error,
    optimise,
    to_tensor,
    tokenise,
    training_images,
    write_tokenizer,
)
from tgo_pipeline.seeds import derive_seed

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
    from diffusers.models.autoencoders.vq_model import VQModel
    from diffusers.pipelines.deprecated.amused.pipeline_amused import AmusedPipeline

log = logging.getLogger("tgo")
CODES = 512
"""As many as are kept in use: at most nine were dead at a time (docs/LOG.md)."""
MASK_TOKEN = CODES
VOCABULARY = CODES + 8
"""The codes, the mask token, and a few that nothing uses, to a round number."""
TOKENS = LATENT_SIZE**2
MICRO_CONDITIONS = (world.SIZE_PX, world.SIZE_PX, 0, 0, 6)
"""Width, height, crop and score as `AmusedPipeline` passes them; the same in training and in sampling."""
TRANSFORMER: dict[str, Any] = {
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "in_channels": 64,
    "block_out_channels": 64,
    "block_num_heads": 4,
    "num_res_blocks": 3,
    "cond_embed_dim": TEXT_WIDTH,
    "encoder_hidden_size": TEXT_WIDTH,
    "micro_cond_encode_dim": 8,
    "micro_cond_embed_dim": 8 * len(MICRO_CONDITIONS),
}
"""Nothing but the padding of its convolutions tells the transformer where a token is: three blocks reach the middle."""


@dataclass(frozen=True)
class MaskedTraining:
    """How long and how fast each part is trained."""

    images: int = 49_152
    vq_steps: int = 2_000
    vq_batch: int = 24
    vq_learning_rate: float = 1e-3
    commitment: float = 0.25
    restart_every: int = 100
    decoder_steps: int = 2_000
    decoder_learning_rate: float = 2e-3
    transformer_steps: int = 3_000
    transformer_batch: int = 64
    transformer_learning_rate: float = 1e-3
    caption_dropout: float = 0.1
    ema: float = 0.999
    checkpoint_every: int = 500


def train_masked(folder: Path, seed: int, training: MaskedTraining | None = None) -> Path:
    """Train what `folder` lacks and return the folder of the finished pipeline, `folder/masked` (float32).

    `folder/diffusion` holds the finished diffusion base (`base_model.train_base`).
    """
    training = training or MaskedTraining()
    result = folder / "masked"
    if (result / "model_index.json").is_file():
        return result
    # the word is part of the seed: with another, other images would be drawn than the shipped weights saw
    captions, images = training_images(training.images, derive_seed(seed, "base", "pictures"))
    vq = train_vq(folder / "vq.pt", folder / "diffusion", images, seed, training)
    codes = encode(vq, images)
    log.info("perplexity of the codes %.1f of %d", perplexity(codes), CODES)
    train_vq_decoder(folder / "vq_decoder.pt", vq, images, codes, seed, training)
    pipeline = build_pipeline(vq, folder / "diffusion", folder / "tokenizer", seed)
    train_transformer(folder / "transformer.pt", pipeline, captions, codes, seed, training)
    pipeline.save_pretrained(result)
    return result


def train_vq(path: Path, diffusion: Path, images: np.ndarray, seed: int, training: MaskedTraining) -> VQModel:
    """Train the VQ model as the VAE was, its codes starting from clusters of what the encoder makes."""
    from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL

    vq = quantised(AutoencoderKL.from_pretrained(diffusion, subfolder="vae"))
    rng = np.random.default_rng(derive_seed(seed, "vq", "initialise"))
    with torch.no_grad():
        vq.quantize.embedding.weight.copy_(_clusters(_some_latents(vq, images, rng), rng))

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng(derive_seed(seed, str(step), "vq"))
        if step % training.restart_every == 0 and 0 < step <= 0.75 * training.vq_steps:
            restart_dead_codes(vq, images, rng)
        real = to_tensor(images[rng.integers(len(images), size=training.vq_batch)])
        decoded: Any = vq.decode(vq.encode((real + 1) / 2).latents)  # type: ignore[union-attr]
        error = object_error(2 * decoded.sample - 1, real)
        return error + training.commitment * decoded.commit_loss.mean()

    optimise(path, vq, loss, training.vq_steps, training.vq_learning_rate, training.checkpoint_every, "vq")
    return vq.eval()


@torch.no_grad()
def quantised(vae: AutoencoderKL) -> VQModel:
    """A VQ model that encodes to the VAE's scaled means and decodes as it does, but for images in [0, 1].

    `AmusedPipeline` decodes to [0, 1] and the VAE to [-1, 1]; the borders, padded with zeros, differ a little.
    """
    from diffusers.models.autoencoders.vq_model import VQModel

    shared = ("layers_per_block", "block_out_channels", "norm_num_groups", "latent_channels", "sample_size")
    vq = VQModel(
        down_block_types=vae.config["down_block_types"],
        up_block_types=vae.config["up_block_types"],
        num_vq_embeddings=CODES,
        lookup_from_codebook=True,
        **{name: vae.config[name] for name in shared},
    )
    scale = vae.config["scaling_factor"]
    state = {name: value.clone() for name, value in vae.state_dict().items()}
    means = state["quant_conv.weight"][:LATENT_CHANNELS, :, 0, 0] * scale
    first, last, before = "encoder.conv_in", "decoder.conv_out", "encoder.conv_out"
    state[f"{first}.bias"] -= state[f"{first}.weight"].sum((1, 2, 3))
    state[f"{first}.weight"] *= 2
    state[f"{last}.weight"] /= 2
    state[f"{last}.bias"] = (state[f"{last}.bias"] + 1) / 2
    state[f"{before}.weight"] = torch.einsum("om,mcyx->ocyx", means, state[f"{before}.weight"])
    state[f"{before}.bias"] = (
        means @ state[f"{before}.bias"] + scale * state["quant_conv.bias"][:LATENT_CHANNELS]
    )
    state["quant_conv.weight"] = torch.eye(LATENT_CHANNELS)[:, :, None, None]
    state["quant_conv.bias"] = torch.zeros(LATENT_CHANNELS)
    state["post_quant_conv.weight"] /= scale
    state["quantize.embedding.weight"] = vq.quantize.embedding.weight
    vq.load_state_dict(state)
    return vq


@torch.no_grad()
def restart_dead_codes(vq: VQModel, images: np.ndarray, rng: np.random.Generator) -> None:
    """Move the codes that a sample of images never uses onto vectors that the encoder makes."""
    latents = _some_latents(vq, images, rng)
    book = vq.quantize.embedding.weight
    used = torch.bincount(torch.cdist(latents, book).argmin(1), minlength=CODES) > 0
    dead = (~used).nonzero()[:, 0]
    book[dead] = latents[rng.permutation(len(latents))[: len(dead)]]
    log.info("restarted %d of %d codes", len(dead), CODES)


def _some_latents(vq: VQModel, images: np.ndarray, rng: np.random.Generator, count: int = 512) -> Tensor:
    """What the encoder makes of `count` images at every place, (count · 64, C)."""
    rows = rng.integers(len(images), size=count)
    latents: Tensor = vq.encode((to_tensor(images[rows]) + 1) / 2).latents  # type: ignore[union-attr]
    return latents.permute(0, 2, 3, 1).reshape(-1, LATENT_CHANNELS)


def _clusters(vectors: Tensor, rng: np.random.Generator, rounds: int = 10) -> Tensor:
    """Lloyd's algorithm: (CODES, C) centres of vectors (N, C); a centre that loses all of its vectors stays."""
    centres = vectors[rng.permutation(len(vectors))[:CODES]].clone()
    for _ in range(rounds):
        nearest = torch.cdist(vectors, centres).argmin(1)
        count = torch.bincount(nearest, minlength=CODES)[:, None]
        total = torch.zeros_like(centres).index_add_(0, nearest, vectors)
        centres = torch.where(count > 0, total / count.clamp(min=1), centres)
    return centres


@torch.no_grad()
def encode(vq: VQModel, images: np.ndarray, batch: int = 256) -> Tensor:
    """The codes of images, (N, 64), row by row from the top."""
    parts = []
    for start in range(0, len(images), batch):
        real = to_tensor(images[start : start + batch])
        latents = vq.encode((real + 1) / 2).latents  # type: ignore[union-attr]
        parts.append(vq.quantize(latents)[2][2].view(len(real), TOKENS))
    return torch.cat(parts)


def perplexity(codes: Tensor) -> float:
    """exp of the entropy of the codes' frequencies: how many codes are in use, as it were."""
    frequency = torch.bincount(codes.flatten(), minlength=CODES) / codes.numel()
    return float(torch.special.entr(frequency).sum().exp())


def build_pipeline(vq: VQModel, diffusion: Path, tokenizer_folder: Path, seed: int) -> AmusedPipeline:
    """The pipeline around a trained VQ model; only the transformer and the text projection know nothing yet."""
    from diffusers.models.unets.uvit_2d import UVit2DModel
    from diffusers.pipelines.deprecated.amused.pipeline_amused import AmusedPipeline
    from diffusers.schedulers.scheduling_amused import AmusedScheduler
    from transformers import CLIPTextModelWithProjection

    torch.manual_seed(derive_seed(seed, "transformer", "initialise"))
    transformer = UVit2DModel(
        vocab_size=VOCABULARY, codebook_size=CODES, sample_size=LATENT_SIZE, **TRANSFORMER
    )
    text_encoder = CLIPTextModelWithProjection.from_pretrained(
        diffusion / "text_encoder", projection_dim=TEXT_WIDTH
    )
    return AmusedPipeline(
        vqvae=vq,
        tokenizer=write_tokenizer(tokenizer_folder),
        text_encoder=text_encoder,
        transformer=transformer,
        scheduler=AmusedScheduler(mask_token_id=MASK_TOKEN),
    )


def train_vq_decoder(
    path: Path, vq: VQModel, images: np.ndarray, codes: Tensor, seed: int, training: MaskedTraining
) -> None:
    """Train the decoder further on codes that stay as they are; the transformer can be trained meanwhile."""
    decoder = nn.ModuleList([vq.post_quant_conv, vq.decoder])
    shape = (training.vq_batch, LATENT_SIZE, LATENT_SIZE, LATENT_CHANNELS)

    def loss(step: int) -> Tensor:
        rng = np.random.default_rng(derive_seed(seed, str(step), "vq-decoder"))
        rows = rng.integers(len(images), size=training.vq_batch)
        drawn: Any = vq.decode(codes[rows], force_not_quantize=True, shape=shape)  # type: ignore[arg-type]
        return object_error(2 * drawn.sample - 1, to_tensor(images[rows]))

    optimise(
        path,
        decoder,
        loss,
        training.decoder_steps,
        training.decoder_learning_rate,
        training.checkpoint_every,
        "vq-decoder",
    )


class MaskedPredictor(nn.Module):
    """Transformer and text encoder as one module: logits (B, 64, CODES) from codes (B, 64) and token ids (B, T)."""

    def __init__(self, transformer: nn.Module, text_encoder: nn.Module) -> None:
        super().__init__()
        self.transformer = transformer
        self.text_encoder = text_encoder

    def forward(self, codes: Tensor, tokens: Tensor) -> Tensor:
        text = self.text_encoder(tokens, output_hidden_states=True)
        logits: Tensor = self.transformer(
            codes.view(-1, LATENT_SIZE, LATENT_SIZE),
            encoder_hidden_states=text.hidden_states[-2],
            pooled_text_emb=text.text_embeds,
            micro_conds=torch.tensor(MICRO_CONDITIONS, dtype=torch.float32).expand(len(codes), -1),
        )
        return logits.flatten(2).transpose(1, 2)


def train_transformer(
    path: Path,
    pipeline: AmusedPipeline,
    captions: list[str],
    codes: Tensor,
    seed: int,
    training: MaskedTraining,
) -> None:
    """Train transformer and text encoder to fill in masked codes; the pipeline ends with the averaged weights.

    The loss is the mean cross-entropy of the masked codes; a dropped caption is the empty prompt, states and pooled.
    """
    tokens = tokenise(pipeline.tokenizer, captions)
    empty = tokenise(pipeline.tokenizer, [""])
    predictor = MaskedPredictor(pipeline.transformer, pipeline.text_encoder)
    predictor.train()

    def loss(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(seed, str(step), "transformer"))
        rows = torch.randint(len(codes), (training.transformer_batch,), generator=generator)
        masked = random_mask(len(rows), generator)
        dropped = torch.rand(rows.shape, generator=generator) < training.caption_dropout
        text = torch.where(dropped[:, None], empty, tokens[rows])
        logits = predictor(codes[rows].masked_fill(masked, MASK_TOKEN), text)
        return cross_entropy(logits[masked], codes[rows][masked])

    optimise(
        path,
        predictor,
        loss,
        training.transformer_steps,
        training.transformer_learning_rate,
        training.checkpoint_every,
        "transformer",
        ema=training.ema,
    )
    predictor.eval()


def random_mask(count: int, generator: torch.Generator) -> Tensor:
    """Which codes are masked, (count, 64): cos(πu/2) of each image's, u uniform, at random places, at least one.

    The ratio is MaskGIT's (Chang et al. 2022, equation 3 with the cosine).
    """
    ratio = torch.cos(torch.rand(count, generator=generator) * math.pi / 2)
    number = (TOKENS * ratio).round().clamp(min=1)
    order = torch.rand(count, TOKENS, generator=generator).argsort(1).argsort(1)
    return order < number[:, None]
