"""Train the small world's model of clips: a `WanPipeline` at tiny size, on spoilt clips.

Each part is trained alone, from a seed, with a checkpoint, and is skipped where its result exists: VAE, then
transformer and text encoder together.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import (
    WanAttentionBlock,
    WanResidualBlock,
    patchify,
    unpatchify,
)
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from torch import Tensor, nn
from torch.nn import functional

from tgo_pipeline.demo import moving
from tgo_pipeline.demo_training.base_model import optimise
from tgo_pipeline.seeds import derive_seed

if TYPE_CHECKING:
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
    from diffusers.pipelines.wan.pipeline_wan import WanPipeline
    from transformers import PreTrainedTokenizerBase, UMT5EncoderModel

log = logging.getLogger("tgo")
TEXT_TOKENS = 512
"""What the pipeline fills a prompt up to with zeros; the transformer attends to them."""
WORD_TOKENS = 16
"""The longest caption has 13 tokens."""
LATENT_CHANNELS = 16
PATCH_PX = 4
ENCODER_WIDTH = 36
"""Room for every component and its negative, and for the constant."""
LOUD = 100.0
"""The constant: components of 16 standard deviations in all change the norm by a thousandth."""
TEXT_WIDTH = 48
SHIFT = 3.0
"""Of the noise levels, as published for small sizes; in training and in sampling."""
TIMESTEPS = 1000


@dataclass(frozen=True)
class VideoTraining:
    """How long and how fast each part is trained."""

    clips: int = 4_096
    vae_steps: int = 800
    decoder_steps: int = 1_200
    vae_batch: int = 8
    vae_learning_rate: float = 3e-3
    steps: int = 9_000
    batch: int = 16
    learning_rate: float = 2e-3
    caption_dropout: float = 0.1
    ema: float = 0.99
    checkpoint_every: int = 100


def train_video(folder: Path, seed: int, training: VideoTraining | None = None) -> Path:
    """Train what `folder` lacks and return the folder of the finished pipeline, `folder/video` (float32)."""
    training = training or VideoTraining()
    result = folder / "video"
    if (result / "model_index.json").is_file():
        return result
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(derive_seed(seed, "video", "clips"))
    captions = [str(text) for text in rng.choice(moving.captions(), training.clips)]
    clips = moving.clips(captions, int(rng.integers(2**31)))
    vae = train_vae(folder, clips, seed, training)
    latents = encode(vae, clips)
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    vae.register_to_config(latents_mean=mean.tolist(), latents_std=std.tolist())
    pipeline = build_pipeline(vae, seed)
    shape = (1, -1, 1, 1, 1)
    normal = (latents - mean.view(shape)) / std.view(shape)
    train_transformer(folder / "video-transformer.pt", pipeline, captions, normal, seed, training)
    pipeline.save_pretrained(result)
    return result


def to_tensor(clips: np.ndarray) -> Tensor:
    """(N, T, 32, 32, 3) uint8 to (N, 3, T, 32, 32) float in [-1, 1]."""
    return torch.from_numpy(clips).permute(0, 4, 1, 2, 3).float() / 127.5 - 1


def build_vae() -> AutoencoderKLWan:
    """A causal VAE of factor 8 in space and 2 in time; its residual blocks begin as if they were not there.

    It sees squares of 4×4 pixels, as Wan 2.2's sees squares of 2×2: convolutions on pixels take ten times as long.
    """
    from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan

    vae = AutoencoderKLWan(
        base_dim=ENCODER_WIDTH,
        decoder_base_dim=24,
        z_dim=LATENT_CHANNELS,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[True],
        latents_mean=[0.0] * LATENT_CHANNELS,
        latents_std=[1.0] * LATENT_CHANNELS,
        in_channels=48,
        out_channels=48,
        patch_size=PATCH_PX,
        scale_factor_temporal=2,
        scale_factor_spatial=2 * PATCH_PX,
    )
    with torch.no_grad():
        for block in vae.modules():
            if isinstance(block, WanResidualBlock):
                block.conv2.weight.zero_()
                block.conv2.bias.zero_()  # type: ignore[union-attr]
    return vae


@torch.no_grad()
def compute_encoder(vae: AutoencoderKLWan, clips: np.ndarray) -> None:
    """Give the encoder the principal components of what it sees; trained, it passed on a blur for 300 steps.

    A latent is the 16 components, of standard deviation 1, of a square of 8×8 pixels of every other frame. The encoder
    ends in a norm and SiLU, which are no obstacle: a constant channel that is far larger than the others holds the
    norm, and every component comes with its negative, since silu(x) - silu(-x) = x.
    """
    cells = patchify(to_tensor(clips), PATCH_PX)
    first_mean, first, _ = _components(cells.permute(0, 2, 3, 4, 1).flatten(0, 3), ENCODER_WIDTH)
    inner = torch.einsum("oc,nctyx->notyx", first, cells - first_mean.view(1, -1, 1, 1, 1))
    squares = inner.unflatten(4, (-1, 2)).unflatten(3, (-1, 2)).permute(0, 2, 3, 5, 4, 6, 1)
    mean, second, spread = _components(squares.flatten(4).flatten(0, 3), LATENT_CHANNELS)
    project = (second / spread[:, None]).unflatten(1, (2, 2, ENCODER_WIDTH)).permute(0, 3, 1, 2)
    offset = (second / spread[:, None]) @ mean
    encoder: Any = vae.encoder
    down = encoder.down_blocks[1]
    quant: Any = vae.quant_conv
    for layer in (encoder.conv_in, down.resample[1], down.time_conv, encoder.conv_out, quant):
        layer.weight.zero_()
        layer.bias.zero_()
    count = LATENT_CHANNELS
    encoder.conv_in.weight[:, :, -1, 1, 1] = first
    encoder.conv_in.bias.copy_(-(first @ first_mean))
    weight, bias = down.resample[1].weight, down.resample[1].bias
    weight[:count, :, :2, :2], weight[count : 2 * count, :, :2, :2] = project, -project
    bias[:count], bias[count : 2 * count], bias[2 * count] = -offset, offset, LOUD
    down.time_conv.weight[:, :, -1, 0, 0] = torch.eye(ENCODER_WIDTH)
    for block in encoder.modules():
        if isinstance(block, WanAttentionBlock):
            block.proj.weight.zero_()
            cast(Tensor, block.proj.bias).zero_()
    back = torch.eye(count) * LOUD / math.sqrt(ENCODER_WIDTH)
    encoder.conv_out.weight[:count, :count, -1, 1, 1] = back
    encoder.conv_out.weight[:count, count : 2 * count, -1, 1, 1] = -back
    quant.weight[:, :, 0, 0, 0] = torch.eye(2 * count)
    quant.bias[count:] = -6.0


def _components(rows: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """Mean of rows (N, D), the `count` directions in which they differ most, (count, D), and how much, (count,)."""
    mean = rows.mean(0)
    values, vectors = torch.linalg.eigh((rows - mean).T @ (rows - mean) / len(rows))
    return mean, vectors.flip(1)[:, :count].T, values.flip(0)[:count].sqrt()


def decode_uncut(vae: AutoencoderKLWan, latents: Tensor) -> Tensor:
    """As `vae.decode`, not cut to [-1, 1]: what is beyond would have no gradient, and black never left it."""
    vae.clear_cache()
    states = vae.post_quant_conv(latents)
    chunks = []
    for number in range(states.shape[2]):
        place, first = [0], {"first_chunk": True} if number == 0 else {}
        frame = states[:, :, number : number + 1]
        chunks.append(vae.decoder(frame, feat_cache=vae._feat_map, feat_idx=place, **first))
    vae.clear_cache()
    return unpatchify(torch.cat(chunks, 2), patch_size=vae.config["patch_size"])


def train_vae(folder: Path, clips: np.ndarray, seed: int, training: VideoTraining) -> AutoencoderKLWan:
    """Compute the encoder, and train the decoder on absolute and squared error, objects weighing most."""
    torch.manual_seed(derive_seed(seed, "video vae", "initialise"))
    vae = build_vae()
    compute_encoder(vae, clips[:512])
    latents = encode(vae, clips)
    decoder = nn.ModuleList([vae.post_quant_conv, vae.decoder])

    def train(name: str, steps: int) -> None:
        def loss(step: int) -> Tensor:
            rng = np.random.default_rng(derive_seed(seed, str(step), name))
            rows = rng.integers(len(clips), size=training.vae_batch)
            return object_error(decode_uncut(vae, latents[rows]), to_tensor(clips[rows]))

        path = folder / f"{name.replace(' ', '-')}.pt"
        _optimise(path, decoder, loss, steps, training.vae_learning_rate, training)

    train("video vae", training.vae_steps)
    train("video decoder", training.decoder_steps)  # again from the full rate: shapes were blurs still
    return vae


def object_error(drawn: Tensor, real: Tensor) -> Tensor:
    """Absolute and squared error of clips in [-1, 1], a pixel of the object weighing as much as four others."""
    frame = torch.cat([real[:, :, :, :2].flatten(3), real[:, :, :, -2:].flatten(3)], 3).median(3).values
    is_object = (real - frame[..., None, None]).abs().amax(1, keepdim=True) > 0.3
    error = drawn - real
    return ((1 + 3 * is_object) * (error.abs() + 2 * error.square())).mean()


@torch.no_grad()
def encode(vae: AutoencoderKLWan, clips: np.ndarray, batch: int = 128) -> Tensor:
    """Modes of the posterior, (N, C, T, 4, 4), not normalised."""
    parts = [
        vae.encode(to_tensor(clips[start : start + batch])).latent_dist.mode()  # type: ignore[union-attr]
        for start in range(0, len(clips), batch)
    ]
    return torch.cat(parts)


@torch.no_grad()
def reconstructed(vae: AutoencoderKLWan, clips: np.ndarray, batch: int = 128) -> np.ndarray:
    """Clips, uint8, as the VAE gives them back, uint8."""
    latents = encode(vae, clips, batch)
    parts = [decode_uncut(vae, part).clamp(-1, 1) for part in latents.split(batch)]
    return ((torch.cat(parts).permute(0, 2, 3, 4, 1) + 1) * 127.5).round().byte().numpy()


def build_tokenizer() -> PreTrainedTokenizerBase:
    """A `T5Tokenizer` whose pieces are the words of the captions, and letters for what else is written."""
    from transformers import T5Tokenizer

    words = sorted({word for text in moving.captions() for word in text.replace(",", "").split()})
    letters = [chr(code) for code in range(ord("!"), ord("~") + 1)]
    pieces = [(piece, 0.0) for piece in ("<pad>", "</s>", "<unk>")]
    pieces += [(f"▁{word}", -1.0) for word in words]
    pieces += [(piece, -9.0) for piece in ("▁", *letters)]
    return T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=TEXT_TOKENS)


def build_pipeline(vae: AutoencoderKLWan, seed: int) -> WanPipeline:
    """The untrained pipeline around a trained VAE."""
    from diffusers.models.transformers.transformer_wan import WanTransformer3DModel
    from diffusers.pipelines.wan.pipeline_wan import WanPipeline
    from diffusers.schedulers.scheduling_unipc_multistep import UniPCMultistepScheduler
    from transformers import UMT5Config, UMT5EncoderModel

    torch.manual_seed(derive_seed(seed, "video transformer", "initialise"))
    tokenizer: Any = build_tokenizer()
    transformer = WanTransformer3DModel(
        patch_size=(1, 1, 1),
        num_attention_heads=3,
        attention_head_dim=24,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        text_dim=TEXT_WIDTH,
        freq_dim=64,
        ffn_dim=216,
        num_layers=4,
        rope_max_seq_len=32,
    )
    _hear_words(transformer)
    text_encoder = UMT5EncoderModel(
        UMT5Config(
            vocab_size=len(tokenizer),
            d_model=TEXT_WIDTH,
            d_kv=12,
            d_ff=4 * TEXT_WIDTH,
            num_layers=1,
            num_heads=4,
            dropout_rate=0.0,
        )
    )
    return WanPipeline(
        tokenizer=tokenizer,
        text_encoder=text_encoder,
        vae=vae,
        scheduler=UniPCMultistepScheduler(
            prediction_type="flow_prediction", use_flow_sigmas=True, flow_shift=SHIFT
        ),  # type: ignore[arg-type]
        transformer=transformer,
    )


def _hear_words(transformer: WanTransformer3DModel) -> None:
    """Let words begin loud and padding silent: ten words among 500 zeros get a fiftieth of the attention."""
    text = transformer.condition_embedder.text_embedder
    layers = [text.linear_1, text.linear_2]
    with torch.no_grad():
        for block in transformer.blocks:
            attention: Any = block.attn2
            attention.to_v.weight *= TEXT_TOKENS / WORD_TOKENS
            layers += [attention.to_k, attention.to_v]
        for layer in layers:
            layer.bias.zero_()


class CountedPadding(WanAttnProcessor):
    """Attention to a prompt whose last state stands for all of its padding, which is the same everywhere.

    Equal to attention to 512 states, in half of a training step's time.
    """

    def __call__(
        self, attn: Any, hidden_states: Any, encoder_hidden_states: Any = None, *further: Any
    ) -> Tensor:
        count = encoder_hidden_states.shape[1]
        weights = torch.zeros(1, 1, 1, count)
        weights[..., -1] = math.log(TEXT_TOKENS - count + 1)
        return super().__call__(attn, hidden_states, encoder_hidden_states, weights)


class Velocity(nn.Module):
    """Transformer and text encoder as one module: velocities of noisy latents from token ids (B, L)."""

    def __init__(self, transformer: WanTransformer3DModel, text_encoder: UMT5EncoderModel) -> None:
        super().__init__()
        self.transformer = transformer
        self.text_encoder = text_encoder

    def forward(self, noisy: Tensor, timesteps: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        states = self.text_encoder(tokens, attention_mask=mask).last_hidden_state * mask[..., None]
        padded = functional.pad(states, (0, 0, 0, 1))  # see `CountedPadding`
        return self.transformer(noisy, timesteps, padded, return_dict=False)[0]


def train_transformer(
    path: Path,
    pipeline: WanPipeline,
    captions: list[str],
    latents: Tensor,
    seed: int,
    training: VideoTraining,
) -> None:
    """Train transformer and text encoder to predict the velocity; the pipeline ends with the average of the weights."""
    tokens, mask = tokenise(pipeline.tokenizer, captions)
    nothing, nothing_mask = tokenise(pipeline.tokenizer, [""])
    network = Velocity(pipeline.transformer, pipeline.text_encoder)
    network.train()
    own = [block.attn2.processor for block in pipeline.transformer.blocks]  # type: ignore[union-attr]
    attend(pipeline.transformer, [CountedPadding() for _ in own])

    def loss(step: int) -> Tensor:
        generator = torch.Generator().manual_seed(derive_seed(seed, str(step), "video transformer"))
        rows = torch.randint(len(latents), (training.batch,), generator=generator)
        uniform = torch.rand(rows.shape, generator=generator)
        sigma = SHIFT * uniform / (1 + (SHIFT - 1) * uniform)
        noise = torch.randn(latents[rows].shape, generator=generator)
        dropped = (torch.rand(rows.shape, generator=generator) < training.caption_dropout)[:, None]
        level = sigma.view(-1, 1, 1, 1, 1)
        noisy = (1 - level) * latents[rows] + level * noise
        words = torch.where(dropped, nothing, tokens[rows]), torch.where(dropped, nothing_mask, mask[rows])
        return (network(noisy, TIMESTEPS * sigma, *words) - (noise - latents[rows])).square().mean()

    _optimise(path, network, loss, training.steps, training.learning_rate, training, training.ema)
    attend(pipeline.transformer, own)
    network.eval()


def attend(transformer: WanTransformer3DModel, processors: Sequence[Any]) -> None:
    """Let the blocks attend to the prompt with these processors, one for each block."""
    for block, processor in zip(transformer.blocks, processors, strict=True):
        block.attn2.set_processor(processor)  # type: ignore[operator,union-attr]


def tokenise(tokenizer: Any, texts: list[str]) -> tuple[Tensor, Tensor]:
    """Token ids and which of them count, (N, 16) each."""
    read = tokenizer(
        texts, padding="max_length", max_length=WORD_TOKENS, truncation=True, return_tensors="pt"
    )
    return read.input_ids, read.attention_mask


def _optimise(
    path: Path,
    module: nn.Module,
    loss: Callable[[int], Tensor],
    steps: int,
    learning_rate: float,
    training: VideoTraining,
    ema: float | None = None,
) -> None:
    optimise(path, module, loss, steps, learning_rate, training.checkpoint_every, path.stem, ema)
