"""Masked-token pipelines at the smallest useful size, with random weights from a seed, written to disk for tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.tiny import tiny_clip_tokenizer

IMAGE_SIZE = 32
GRID = 8
"""Tokens along each side of an image."""
CODES = 32
MASK_TOKEN = CODES
WIDTH = 16
"""Of the text encoder's states and of its pooled embedding."""


def tiny_amused_pipeline(folder: Path, seed: int = 0) -> Path:
    """Write an `AmusedPipeline` (32x32 images, 8x8 tokens of 32 codes); return `folder`."""
    import torch
    from diffusers.models.unets.uvit_2d import UVit2DModel
    from diffusers.pipelines.deprecated.amused.pipeline_amused import AmusedPipeline
    from diffusers.schedulers.scheduling_amused import AmusedScheduler

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = UVit2DModel(
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            in_channels=16,
            block_out_channels=16,
            block_num_heads=2,
            num_res_blocks=1,
            cond_embed_dim=WIDTH,
            encoder_hidden_size=WIDTH,
            micro_cond_encode_dim=4,
            micro_cond_embed_dim=20,
            vocab_size=CODES + 8,
            codebook_size=CODES,
            sample_size=GRID,
        )
        parts = _text_and_images(folder)
    pipeline = AmusedPipeline(
        transformer=transformer, scheduler=AmusedScheduler(mask_token_id=MASK_TOKEN), **parts
    )
    pipeline.save_pretrained(folder)
    return folder


def tiny_meissonic_pipeline(folder: Path, seed: int = 0, downsample: bool = True) -> Path:
    """Write a `MeissonicPipeline` (32x32 images, 8x8 tokens of 32 codes); return `folder`."""
    import torch
    from diffusers.schedulers.scheduling_amused import AmusedScheduler

    from tgo_pipeline.generators.meissonic import MeissonicPipeline
    from tgo_pipeline.generators.meissonic_network import MeissonicTransformer2DModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        transformer = MeissonicTransformer2DModel(**tiny_meissonic_config(downsample))
        parts = _text_and_images(folder)
    pipeline = MeissonicPipeline(
        transformer=transformer,
        scheduler=AmusedScheduler(mask_token_id=MASK_TOKEN),
        sample_size=GRID,
        **parts,
    )
    pipeline.save_pretrained(folder)
    return folder


def tiny_meissonic_config(downsample: bool = True) -> dict[str, Any]:
    """The keys of the published configuration, at tiny size."""
    return {
        "patch_size": 1,
        "in_channels": 64,
        "num_layers": 2,
        "num_single_layers": 2,
        "attention_head_dim": 8,
        "num_attention_heads": 2,
        "joint_attention_dim": WIDTH,
        "pooled_projection_dim": WIDTH,
        "guidance_embeds": False,
        "axes_dims_rope": [2, 2, 4],
        "vocab_size": CODES + 1,
        "codebook_size": CODES,
        "downsample": downsample,
        "upsample": downsample,
    }


def _text_and_images(folder: Path) -> dict[str, Any]:
    """VQ model, tokenizer and text encoder, the same for both families."""
    import torch
    from diffusers.models.autoencoders.vq_model import VQModel
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    vqvae = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        layers_per_block=1,
        latent_channels=4,
        sample_size=IMAGE_SIZE,
        num_vq_embeddings=CODES,
        norm_num_groups=4,
        mid_block_add_attention=False,
        lookup_from_codebook=True,
    )
    torch.nn.init.normal_(vqvae.quantize.embedding.weight)
    tokenizer: Any = tiny_clip_tokenizer(folder / "tokenizer")
    text_encoder = CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=WIDTH,
            projection_dim=WIDTH,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=tokenizer.model_max_length,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    return {"vqvae": vqvae, "tokenizer": tokenizer, "text_encoder": text_encoder}
