"""Meissonic's transformer (Bai et al. 2024, arXiv 2410.08261), composed from the blocks of `diffusers`.

It reads the published weights (MeissonFlow/Meissonic, and Monetico without the compression layers) name by name: the
two-stream and one-stream blocks, rotary positions and time embedding are those of FLUX, the token embedding, the
compression layers and the head those of aMUSEd.
"""

from __future__ import annotations

import json
from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.loaders.peft import PeftAdapterMixin
from diffusers.models.attention import AttentionMixin
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import (
    CombinedTimestepTextProjEmbeddings,
    TimestepEmbedding,
    get_timestep_embedding,
)
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.normalization import RMSNorm
from diffusers.models.transformers.transformer_flux import (
    FluxPosEmbed,
    FluxSingleTransformerBlock,
    FluxTransformerBlock,
)
from diffusers.models.unets.uvit_2d import ConvMlmLayer, UVit2DConvEmbed
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

MICRO_CONDITIONS = 5
"""Width, height, crop top, crop left, score."""
MICRO_CONDITION_WIDTH, EPSILON, ROPE_BASE = 256, 1e-6, 10_000
"""Of the published network."""


class MeissonicTransformer2DModel(ModelMixin, AttentionMixin, ConfigMixin, PeftAdapterMixin):
    """Logits of the tokens of an image, some of them masked.

    `downsample` and `upsample` halve the grid in between, as for 1024 pixels (not in the 512-pixel models).
    `patch_size`, `in_channels` and `guidance_embeds` are keys of the published configuration that change nothing.
    Raises ValueError for a pooled embedding that is not as wide as the network.
    """

    _supports_gradient_checkpointing = True
    _no_split_modules: ClassVar[list[str]] = ["FluxTransformerBlock", "FluxSingleTransformerBlock"]
    _repeated_blocks: ClassVar[list[str]] = ["FluxTransformerBlock", "FluxSingleTransformerBlock"]
    _skip_layerwise_casting_patterns: ClassVar[list[str]] = ["pos_embed", "norm"]

    @register_to_config
    def __init__(
        self,
        patch_size: int = 1,
        in_channels: int = 64,
        num_layers: int = 14,
        num_single_layers: int = 28,
        attention_head_dim: int = 128,
        num_attention_heads: int = 8,
        joint_attention_dim: int = 1024,
        pooled_projection_dim: int = 1024,
        guidance_embeds: bool = False,
        axes_dims_rope: tuple[int, ...] = (16, 56, 56),
        vocab_size: int = 8256,
        codebook_size: int = 8192,
        downsample: bool = True,
        upsample: bool = True,
    ) -> None:
        super().__init__()
        width = num_attention_heads * attention_head_dim
        if pooled_projection_dim != width:
            raise ValueError(
                f"pooled_projection_dim is {pooled_projection_dim} and the network is {width} wide "
                "(num_attention_heads x attention_head_dim): its pooled embedding must be as wide as the network."
            )
        heads: dict[str, Any] = {
            "num_attention_heads": num_attention_heads,
            "attention_head_dim": attention_head_dim,
        }
        self.pos_embed = FluxPosEmbed(ROPE_BASE, list(axes_dims_rope))
        self.time_text_embed = CombinedTimestepTextProjEmbeddings(width, pooled_projection_dim)
        self.cond_embed = TimestepEmbedding(
            MICRO_CONDITIONS * MICRO_CONDITION_WIDTH + pooled_projection_dim, width, sample_proj_bias=False
        )
        self.context_embedder = nn.Linear(joint_attention_dim, width)
        self.encoder_proj_layer_norm = RMSNorm(width, EPSILON)
        self.embed = UVit2DConvEmbed(width, width, vocab_size, True, EPSILON, False)
        self.down_block = nn.ModuleDict({"downsample": _halve(width)} if downsample else {})
        self.project_to_hidden_norm = RMSNorm(width, EPSILON)
        self.project_to_hidden = nn.Linear(width, width, bias=False)
        self.transformer_blocks = nn.ModuleList(
            FluxTransformerBlock(width, **heads) for _ in range(num_layers)
        )
        self.single_transformer_blocks = nn.ModuleList(
            FluxSingleTransformerBlock(width, **heads) for _ in range(num_single_layers)
        )
        self.project_from_hidden_norm = RMSNorm(width, EPSILON)
        self.project_from_hidden = nn.Linear(width, width, bias=False)
        self.up_block = nn.ModuleDict({"upsample": _double(width)} if upsample else {})
        self.mlm_layer = ConvMlmLayer(width, width, False, True, EPSILON, codebook_size)
        self.gradient_checkpointing = False

    def forward(
        self,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor,
        pooled_projections: Tensor,
        timestep: Tensor,
        micro_conds: Tensor,
    ) -> Tensor:
        """(B, codebook_size, H, W) logits.

        `hidden_states` (B, H, W) token ids, `encoder_hidden_states` (B, L, joint_attention_dim) and
        `pooled_projections` (B, P) of the prompts, `timestep` (B,) or (1,), `micro_conds` (B, 5): width, height,
        crop top, crop left, score. Raises ValueError for a grid with an odd side if the model halves it.
        """
        if self.down_block and (hidden_states.shape[-1] % 2 or hidden_states.shape[-2] % 2):
            raise ValueError(
                f"a grid of {tuple(hidden_states.shape[-2:])} tokens cannot be halved: use even sides."
            )
        condition = self._condition(pooled_projections, timestep, micro_conds)
        text = self.encoder_proj_layer_norm(self.context_embedder(encoder_hidden_states))
        image = self.embed(hidden_states)
        for layer in self.down_block.values():
            image = layer(image)
        height, width = image.shape[-2:]
        rotary = self.pos_embed(positions(text.shape[1], height, width, image.device))
        image = image.flatten(2).transpose(1, 2)
        image = self.project_to_hidden(self.project_to_hidden_norm(image))
        image = self._blocks(image, text, condition, rotary)
        image = self.project_from_hidden(self.project_from_hidden_norm(image))
        image = image.transpose(1, 2).unflatten(2, (height, width))
        for layer in self.up_block.values():
            image = layer(image)
        return self.mlm_layer(image)

    def _condition(self, pooled: Tensor, timestep: Tensor, micro_conds: Tensor) -> Tensor:
        """(B, width) from the prompt, the size and the timestep, which half precision would round."""
        micro = get_timestep_embedding(
            micro_conds.flatten().float(), MICRO_CONDITION_WIDTH, flip_sin_to_cos=True, downscale_freq_shift=0
        ).view(len(pooled), -1)
        condition = self.cond_embed(torch.cat([pooled, micro.to(pooled.dtype)], dim=1).to(self.dtype))
        return self.time_text_embed(timestep.float() * 1000, condition)

    def _blocks(
        self, image: Tensor, text: Tensor, condition: Tensor, rotary: tuple[Tensor, Tensor]
    ) -> Tensor:
        recompute: Any = self._gradient_checkpointing_func
        for block in (*self.transformer_blocks, *self.single_transformer_blocks):
            if torch.is_grad_enabled() and self.gradient_checkpointing:
                text, image = recompute(block, image, text, condition, rotary)
            else:
                text, image = block(image, text, condition, rotary)
        return image

    def to_json_string(self) -> str:
        """The configuration under the published class name, so that the official code reads what is saved here."""
        config: dict[str, Any] = json.loads(super().to_json_string())
        return json.dumps(config | {"_class_name": "Transformer2DModel"}, indent=2, sort_keys=True) + "\n"


def positions(text_length: int, height: int, width: int, device: torch.device) -> Tensor:
    """(text_length + height * width, 3) positions for the rotary embedding: 0 for the text, then (0, row, column)."""
    rows = torch.arange(height, device=device).repeat_interleave(width)
    columns = torch.arange(width, device=device).repeat(height)
    image = torch.stack([torch.zeros_like(rows), rows, columns], dim=1)
    return torch.cat([image.new_zeros(text_length, 3), image])


def _halve(channels: int) -> Downsample2D:
    return Downsample2D(
        channels,
        use_conv=True,
        padding=0,
        name="Conv2d_0",
        kernel_size=2,
        norm_type="rms_norm",
        eps=EPSILON,
        elementwise_affine=True,
        bias=False,
    )


def _double(channels: int) -> Upsample2D:
    return Upsample2D(
        channels,
        use_conv_transpose=True,
        kernel_size=2,
        padding=0,
        name="conv",
        norm_type="rms_norm",
        eps=EPSILON,
        elementwise_affine=True,
        bias=False,
        interpolate=False,
    )
