"""Memory of trainings at official sizes, counted on torch's meta device: `python -m benchmarks.training.memory`.

Each training, encoding and drawing is imagined as `tgo plan` imagines it, once as it is and once as it was: before
frozen weights were held in half precision, encoding left the denoiser out, and VAEs took one image at a time.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.results import RESULTS, described, hardware, replace_section, table
from benchmarks.training.architectures import SDXL, unet_config
from fine_tune.footprint import Footprint, training
from fine_tune.policies import family_of
from tgo_pipeline.generators.networks import held
from tgo_pipeline.params import (
    FineTuneParams,
    GenerateParams,
    Params,
    PromptsParams,
    RuntimeParams,
    ScoreParams,
)
from tgo_pipeline.planning.blueprint import Blueprint
from tgo_pipeline.planning.families import Family
from tgo_pipeline.planning.sampling import drawing, encoding

CLIP_L = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "projection_dim": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
}
CLIP_G = CLIP_L | {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "projection_dim": 1280,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
}
T5_XXL = {
    "vocab_size": 32128,
    "d_model": 4096,
    "d_kv": 64,
    "d_ff": 10240,
    "num_layers": 24,
    "num_heads": 64,
    "feed_forward_proj": "gated-gelu",
}
VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
}
VAE_4 = VAE | {"latent_channels": 4}
VAE_16 = VAE | {"latent_channels": 16, "use_quant_conv": False, "use_post_quant_conv": False}
FLUX = {
    "in_channels": 64,
    "num_layers": 19,
    "num_single_layers": 38,
    "attention_head_dim": 128,
    "num_attention_heads": 24,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 768,
    "guidance_embeds": True,
    "axes_dims_rope": (16, 56, 56),
}
SD35 = {
    "sample_size": 128,
    "patch_size": 2,
    "in_channels": 16,
    "out_channels": 16,
    "attention_head_dim": 64,
    "joint_attention_dim": 4096,
    "pooled_projection_dim": 2048,
    "qk_norm": "rms_norm",
}
SD35_MEDIUM = SD35 | {
    "num_layers": 24,
    "num_attention_heads": 24,
    "caption_projection_dim": 1536,
    "pos_embed_max_size": 384,
    "dual_attention_layers": tuple(range(13)),
}
BETAS = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TOKENIZER = {"model_max_length": 77}


def _blueprint(name: str, kind: str, **parts: tuple[str, dict[str, Any]]) -> Blueprint:
    classes = {part: cls for part, (cls, _) in parts.items()}
    return Blueprint(name, kind, classes, {part: config for part, (_, config) in parts.items()})


def _sd3(name: str, transformer: dict[str, Any]) -> Blueprint:
    return _blueprint(
        name,
        "StableDiffusion3Pipeline",
        transformer=("SD3Transformer2DModel", transformer),
        vae=("AutoencoderKL", VAE_16),
        text_encoder=("CLIPTextModelWithProjection", CLIP_L),
        text_encoder_2=("CLIPTextModelWithProjection", CLIP_G),
        text_encoder_3=("T5EncoderModel", T5_XXL),
        tokenizer=("CLIPTokenizer", TOKENIZER),
        tokenizer_2=("CLIPTokenizer", TOKENIZER),
        scheduler=("FlowMatchEulerDiscreteScheduler", {"shift": 3.0}),
    )


MODELS = {
    "FLUX.1 dev": _blueprint(
        "FLUX.1 dev",
        "FluxPipeline",
        transformer=("FluxTransformer2DModel", FLUX),
        vae=("AutoencoderKL", VAE_16),
        text_encoder=("CLIPTextModel", CLIP_L),
        text_encoder_2=("T5EncoderModel", T5_XXL),
        tokenizer=("CLIPTokenizer", TOKENIZER),
        scheduler=("FlowMatchEulerDiscreteScheduler", {"shift": 3.0, "use_dynamic_shifting": True}),
    ),
    "SDXL": _blueprint(
        "SDXL",
        "StableDiffusionXLPipeline",
        unet=("UNet2DConditionModel", unet_config(SDXL, "full")),
        vae=("AutoencoderKL", VAE_4),
        text_encoder=("CLIPTextModel", CLIP_L),
        text_encoder_2=("CLIPTextModelWithProjection", CLIP_G),
        tokenizer=("CLIPTokenizer", TOKENIZER),
        tokenizer_2=("CLIPTokenizer", TOKENIZER),
        scheduler=("DDIMScheduler", BETAS),
    ),
    "SD3.5 medium": _sd3("SD3.5 medium", SD35_MEDIUM),
}
"""As their repositories describe them."""
GENERATE = GenerateParams(width=1024, height=1024, precision="bf16", guidance_scale=4.5, steps=28)
TRAININGS: dict[str, tuple[str, dict[str, Any]]] = {
    "FLUX.1 dev, LoRA of rank 16": ("FLUX.1 dev", {"method": "lora"}),
    "SDXL, full, AdamW": ("SDXL", {"method": "full"}),
    "SD3.5 medium, full, AdamW": ("SD3.5 medium", {"method": "full"}),
}
BATCH = RuntimeParams().generate_batch_size


@dataclass(frozen=True)
class Row:
    """Bytes before and now."""

    name: str
    before: int
    now: int


def trainings(chosen: dict[str, tuple[str, dict[str, Any]]] = TRAININGS) -> list[tuple[Row, Footprint]]:
    """The peak of an update of one sample at a time with activations computed twice, in bf16 at 1,024 pixels."""
    found = []
    for name, (model, options) in chosen.items():
        params = _params(**options)
        family = _family(model, params)
        encoded = encoding(family, 1)
        with _float32():
            before = training(family, encoded, params)
        now = training(family, encoded, params)
        found.append((Row(name, before.peak_bytes, now.peak_bytes), now))
    return found


def encodings(batch: int) -> list[Row]:
    """The peak of filling the cache; before, the denoiser lay beside the encoders and the VAE took whole batches."""
    rows = []
    for model in MODELS:
        family = _family(model, _params())
        before, now = (encoding(family, batch, sliced=sliced) for sliced in (False, True))
        with torch.device("meta"):
            denoiser = 4 * sum(p.numel() for p in family.blueprint.build(family.component).parameters())
        peaks = [max(each.per_image.peak_bytes, each.per_prompt.peak_bytes) for each in (before, now)]
        rows.append(Row(f"{model}, {batch} at once", peaks[0] + denoiser, peaks[1]))
    return rows


def drawings(batch: int) -> list[Row]:
    """The peak of drawing in bf16; before, the VAE took whole batches."""
    rows = []
    for model in MODELS:
        family = _family(model, _params())
        before, now = (drawing(family, GENERATE, batch, sliced=sliced).peak_bytes for sliced in (False, True))
        rows.append(Row(f"{model}, {batch} at once", before, now))
    return rows


def _params(**options: Any) -> Params:
    tuning = FineTuneParams(**{"precision": "bf16", "batch_size": 2, **options})
    lora = dataclasses.replace(tuning.lora, rank=16, alpha=16)
    return Params(
        prompts=PromptsParams(test_fraction=0.5),
        score=ScoreParams(rewards={"clip": "demo"}),
        generate=GENERATE,
        fine_tune=dataclasses.replace(tuning, lora=lora),
        runtime=RuntimeParams(micro_batch_size=1, gradient_checkpointing=True),
    )


def _family(model: str, params: Params) -> Family:
    return family_of(MODELS[model], params.generate, params.fine_tune)


@contextlib.contextmanager
def _float32() -> Iterator[None]:
    """While it lasts, frozen weights are held in float32."""
    hold = held.hold
    with patch.object(held, "hold", lambda network, *_: hold(network, "fp32")):
        yield


def _report() -> str:
    kinds = ("weights", "reference", "gradients", "optimiser", "activations")
    rows = [
        [row.name, _gb(row.before), f"**{_gb(row.now)}**", *(_gb(each) for each in _parts(foot))]
        for row, foot in trainings()
    ]
    others = [
        [f"{work}: {row.name}", _gb(row.before), f"**{_gb(row.now)}**"]
        for work, found in (
            ("encoding", encodings(BATCH)),
            ("drawing", drawings(BATCH)),
        )
        for row in found
    ]
    paragraphs = [
        "## Memory at official sizes",
        "GB (10^9 bytes) of tensors at the peak on one GPU, counted on the meta device as `tgo plan` counts: "
        "1,024 x 1,024 pixels, bf16, one sample at a time, activations computed twice. *Before*: frozen weights in "
        "float32, the denoiser beside the encoders, VAEs that take whole batches. Driver, workspaces and what an "
        "allocator wastes come on top (`python -m benchmarks.training.memory`).",
        described(hardware()),
        table(("training", "before", "now", *kinds), rows),
        table(("encoding in float32, drawing in bf16", "before", "now"), others),
    ]
    return "\n\n".join(paragraphs)


def _parts(foot: Footprint) -> tuple[int, ...]:
    return (
        foot.weight_bytes,
        foot.reference_bytes,
        foot.gradient_bytes,
        foot.optimizer_bytes,
        foot.activation_bytes,
    )


def _gb(size: int) -> str:
    return f"{size / 1e9:.1f}"


def main() -> None:
    """Count, and write the section."""
    replace_section(RESULTS, "training_memory", _report())


if __name__ == "__main__":
    main()
