"""The pipelines of SDXL, SD3, FLUX and Wan at the smallest useful size, with random weights, on disk for tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.tiny import IMAGE_SIZE, LATENT_SIZE, TOKENS, tiny_clip_tokenizer

if TYPE_CHECKING:
    from diffusers import AutoencoderKL
    from transformers import CLIPTextConfig, CLIPTokenizer, PreTrainedTokenizerFast, T5EncoderModel

CLIP_WIDTH, T5_WIDTH, CHANNELS = 16, 32, 4


def tiny_sdxl_pipeline(folder: Path, seed: int = 0, **changes: Any) -> Path:
    """Write a `StableDiffusionXLPipeline` (32x32 images, 4x16x16 latents); `changes` go to the pipeline's config."""
    import torch
    from diffusers import EulerDiscreteScheduler, StableDiffusionXLPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTextModelWithProjection

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first, second = (tiny_clip_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2"))
        pipeline = StableDiffusionXLPipeline(
            vae=_vae(scaling_factor=0.13025),
            text_encoder=CLIPTextModel(_clip_config(first)),
            text_encoder_2=CLIPTextModelWithProjection(_clip_config(second, hidden_act="gelu")),
            tokenizer=first,
            tokenizer_2=second,
            unet=UNet2DConditionModel(
                sample_size=LATENT_SIZE,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
                block_out_channels=(8, 16),
                layers_per_block=1,
                norm_num_groups=4,
                cross_attention_dim=2 * CLIP_WIDTH,
                attention_head_dim=2,
                use_linear_projection=True,
                addition_embed_type="text_time",
                addition_time_embed_dim=8,
                projection_class_embeddings_input_dim=6 * 8 + CLIP_WIDTH,
            ),
            scheduler=EulerDiscreteScheduler(
                beta_start=0.00085,
                beta_end=0.012,
                beta_schedule="scaled_linear",
                timestep_spacing="leading",
                steps_offset=1,
            ),
            add_watermarker=False,
            **changes,
        )
    pipeline.save_pretrained(folder)
    return folder


def tiny_sd3_pipeline(folder: Path, seed: int = 0, *, with_t5: bool = True, **schedule: Any) -> Path:
    """Write a `StableDiffusion3Pipeline` (32x32 images, 4x16x16 latents); `schedule` goes to the scheduler's config."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
    from transformers import CLIPTextModelWithProjection

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        first, second = (tiny_clip_tokenizer(folder / name) for name in ("tokenizer", "tokenizer_2"))
        pipeline = StableDiffusion3Pipeline(
            vae=_vae(scaling_factor=1.5305, shift_factor=0.0609),
            text_encoder=CLIPTextModelWithProjection(_clip_config(first)),
            text_encoder_2=CLIPTextModelWithProjection(_clip_config(second, hidden_act="gelu")),
            text_encoder_3=_t5() if with_t5 else None,  # type: ignore[arg-type]
            tokenizer=first,
            tokenizer_2=second,
            tokenizer_3=tiny_t5_tokenizer() if with_t5 else None,  # type: ignore[arg-type]
            transformer=SD3Transformer2DModel(
                sample_size=LATENT_SIZE,
                patch_size=2,
                in_channels=CHANNELS,
                out_channels=CHANNELS,
                num_layers=2,
                attention_head_dim=8,
                num_attention_heads=2,
                caption_projection_dim=16,
                joint_attention_dim=T5_WIDTH,
                pooled_projection_dim=2 * CLIP_WIDTH,
                pos_embed_max_size=12,
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(**{"shift": 3.0, **schedule}),
        )
        _wake(pipeline.transformer)
    pipeline.save_pretrained(folder)
    return folder


def tiny_flux_pipeline(
    folder: Path, guidance_embeds: bool = True, seed: int = 0, *, dynamic: bool = True
) -> Path:
    """Write a `FluxPipeline` (4 latent channels); `dynamic` shifts timesteps by resolution, as dev does."""
    import torch
    from diffusers import FlowMatchEulerDiscreteScheduler, FluxPipeline, FluxTransformer2DModel
    from transformers import CLIPTextModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = tiny_clip_tokenizer(folder / "tokenizer")
        pipeline = FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler(
                shift=3.0 if dynamic else 1.0, use_dynamic_shifting=dynamic
            ),
            vae=_vae(scaling_factor=0.3611, shift_factor=0.1159),
            text_encoder=CLIPTextModel(_clip_config(tokenizer)),
            tokenizer=tokenizer,
            text_encoder_2=_t5(),
            tokenizer_2=tiny_t5_tokenizer(),  # type: ignore[arg-type]
            transformer=FluxTransformer2DModel(
                in_channels=4 * CHANNELS,
                num_layers=1,
                num_single_layers=1,
                attention_head_dim=8,
                num_attention_heads=2,
                joint_attention_dim=T5_WIDTH,
                pooled_projection_dim=CLIP_WIDTH,
                guidance_embeds=guidance_embeds,
                axes_dims_rope=(2, 2, 4),
            ),
        )
        _wake(pipeline.transformer)
    pipeline.save_pretrained(folder)
    return folder


def tiny_wan_pipeline(folder: Path, seed: int = 0, *, euler: bool = False, **changes: Any) -> Path:
    """Write a `WanPipeline` (clips of 16x16 pixels and 4k+1 frames, 16 latent channels).

    Its scheduler is UniPC as published, or Euler's. `changes` go to the transformer's configuration.
    """
    import torch
    from diffusers import (
        AutoencoderKLWan,
        FlowMatchEulerDiscreteScheduler,
        UniPCMultistepScheduler,
        WanPipeline,
        WanTransformer3DModel,
    )
    from transformers import UMT5Config, UMT5EncoderModel

    flow = {"prediction_type": "flow_prediction", "use_flow_sigmas": True, "flow_shift": 3.0}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        tokenizer = tiny_t5_tokenizer()
        size = {"d_model": T5_WIDTH, "d_kv": 8, "d_ff": 32, "num_layers": 1, "num_heads": 2}
        pipeline = WanPipeline(
            tokenizer=tokenizer,  # type: ignore[arg-type]
            text_encoder=UMT5EncoderModel(UMT5Config(vocab_size=len(tokenizer), **size)),
            vae=AutoencoderKLWan(
                base_dim=3,
                dim_mult=[1, 1, 1, 1],
                num_res_blocks=1,
                temperal_downsample=[False, True, True],
            ),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0)
            if euler
            else UniPCMultistepScheduler(**flow),  # type: ignore[arg-type]
            transformer=WanTransformer3DModel(
                **{
                    "num_attention_heads": 2,
                    "attention_head_dim": 12,
                    "text_dim": T5_WIDTH,
                    "ffn_dim": 32,
                    "num_layers": 2,
                    "rope_max_seq_len": 32,
                    **changes,
                }
            ),
        )
        _wake(pipeline.transformer)
    pipeline.save_pretrained(folder)
    return folder


def tiny_t5_tokenizer() -> PreTrainedTokenizerFast:
    """A `T5TokenizerFast` whose words are the printable ASCII characters."""
    from transformers import T5TokenizerFast

    words = ["<pad>", "</s>", "<unk>", "▁", *(chr(code) for code in range(ord("!"), ord("~") + 1))]
    vocabulary = [(word, 0.0 if word.startswith("<") and len(word) > 1 else -2.0) for word in words]
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=TOKENS)


def _wake(network: Any) -> None:
    """Random values for the layers that start at zero, so that every input has an influence on the output."""
    import torch

    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.05)


def _vae(**scaling: float) -> AutoencoderKL:
    from diffusers import AutoencoderKL

    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        norm_num_groups=4,
        latent_channels=CHANNELS,
        sample_size=IMAGE_SIZE,
        **scaling,
    )


def _clip_config(tokenizer: CLIPTokenizer, **changes: Any) -> CLIPTextConfig:
    from transformers import CLIPTextConfig

    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=CLIP_WIDTH,
        projection_dim=CLIP_WIDTH,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **changes,
    )


def _t5() -> T5EncoderModel:
    from transformers import T5Config, T5EncoderModel

    return T5EncoderModel(
        T5Config(
            vocab_size=len(tiny_t5_tokenizer()),
            d_model=T5_WIDTH,
            d_kv=8,
            d_ff=32,
            num_layers=1,
            num_heads=2,
            feed_forward_proj="gated-gelu",
        )
    )
