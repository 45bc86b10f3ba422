"""Scaled-dot-product attention for the towers, in place of the attention modules of open_clip and transformers.

open_clip's `nn.MultiheadAttention` takes another path on each device, and BLIP's classes know eager attention only.
Each module here adopts the parameters of the one it replaces under their own names, so that checkpoints fit.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers.models.blip.modeling_blip import BlipAttention
from transformers.models.blip.modeling_blip_text import BlipTextSelfAttention
from transformers.models.clip.modeling_clip import CLIPAttention

QueryKeyValue = tuple[Tensor, Tensor, Tensor]


class Attention(nn.Module, ABC):
    """Multi-head attention of `heads` heads; `causal` hides the tokens that come later; dropout while training."""

    def __init__(self, heads: int, causal: bool = False, dropout: float = 0.0) -> None:
        super().__init__()
        self.heads = heads
        self.causal = causal
        self.dropout_p = dropout

    @abstractmethod
    def project(self, tokens: Tensor, context: Tensor | None) -> QueryKeyValue:
        """Queries of `tokens` (B, L, D), keys and values of `context` (of the tokens themselves without one)."""

    def attend(self, tokens: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """(B, L, D) -> (B, L, D), what each token sees; `mask` is true, (B, 1, 1, L), where it may look."""
        query, key, value = (self._split(part) for part in self.project(tokens, context))
        dropout = self.dropout_p if self.training else 0.0
        seen = scaled_dot_product_attention(query, key, value, mask, dropout, is_causal=self.causal)
        return seen.transpose(1, 2).flatten(2)

    def _split(self, x: Tensor) -> Tensor:
        return x.unflatten(2, (self.heads, -1)).transpose(1, 2)


class OpenClipAttention(Attention):
    """In place of `nn.MultiheadAttention(batch_first=True)`."""

    def __init__(self, replaced: nn.MultiheadAttention, causal: bool) -> None:
        super().__init__(replaced.num_heads, causal, replaced.dropout)
        self.in_proj_weight = cast(nn.Parameter, replaced.in_proj_weight)
        self.in_proj_bias = replaced.in_proj_bias
        self.out_proj = replaced.out_proj

    def project(self, tokens: Tensor, context: Tensor | None) -> QueryKeyValue:
        """By one matrix for all three, as open_clip stores them."""
        weight, bias = self.in_proj_weight, self.in_proj_bias
        if context is None:
            return cast(QueryKeyValue, linear(tokens, weight, bias).chunk(3, dim=-1))
        width = weight.shape[1]
        key, value = linear(context, weight[width:], bias[width:]).chunk(2, dim=-1)
        return linear(tokens, weight[:width], bias[:width]), key, value

    def attend(self, tokens: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return self.out_proj(super().attend(tokens, context, mask))

    def forward(self, query: Tensor, *_: Any, **__: Any) -> tuple[Tensor, None]:
        """As open_clip's blocks call it: self-attention, no weights wanted, the mask known from `causal`."""
        return self.attend(query), None


class ClipAttention(Attention):
    """In place of transformers' `CLIPAttention`."""

    def __init__(self, replaced: CLIPAttention, causal: bool) -> None:
        super().__init__(replaced.num_heads, causal, replaced.dropout or 0.0)
        self.q_proj, self.k_proj, self.v_proj = replaced.q_proj, replaced.k_proj, replaced.v_proj
        self.out_proj = replaced.out_proj

    def project(self, tokens: Tensor, context: Tensor | None) -> QueryKeyValue:
        """By a matrix for each, as CLIP of transformers stores them."""
        tokens = _as_weights(tokens, self.q_proj)
        context = tokens if context is None else _as_weights(context, self.q_proj)
        return self.q_proj(tokens), self.k_proj(context), self.v_proj(context)

    def attend(self, tokens: Tensor, context: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        return self.out_proj(super().attend(tokens, context, mask))

    def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
        """As transformers' layers call it; the mask is known from `causal`."""
        return self.attend(hidden_states), None


class BlipVisionAttention(Attention):
    """In place of transformers' `BlipAttention`."""

    def __init__(self, replaced: BlipAttention) -> None:
        super().__init__(replaced.num_heads, dropout=replaced.dropout.p)
        self.qkv, self.projection = replaced.qkv, replaced.projection

    def project(self, tokens: Tensor, context: Tensor | None) -> QueryKeyValue:
        return cast(QueryKeyValue, self.qkv(tokens).chunk(3, dim=-1))

    def forward(self, hidden_states: Tensor, **_: Any) -> tuple[Tensor, None]:
        """(B, L, D) -> (B, L, D), and no weights."""
        return self.projection(self.attend(hidden_states)), None


class BlipTextAttention(Attention):
    """In place of transformers' `BlipTextSelfAttention`, which also looks at images."""

    def __init__(self, replaced: BlipTextSelfAttention) -> None:
        super().__init__(replaced.num_attention_heads, dropout=replaced.dropout.p)
        self.query, self.key, self.value = replaced.query, replaced.key, replaced.value

    def project(self, tokens: Tensor, context: Tensor | None) -> QueryKeyValue:
        """By a matrix for each, as BERT stores them."""
        tokens = _as_weights(tokens, self.query)
        context = tokens if context is None else _as_weights(context, self.query)
        return self.query(tokens), self.key(context), self.value(context)

    def forward(
        self,
        hidden_states: Tensor,
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        **_: Any,
    ) -> tuple[Tensor, None]:
        """Look at the words that the mask shows, or at all of the image (B, P, D) if there is one."""
        mask = attention_mask if encoder_hidden_states is None else None
        return self.attend(hidden_states, encoder_hidden_states, mask), None


def class_token(
    hidden: Tensor, norm1: nn.Module, attention: Attention, norm2: nn.Module, mlp: nn.Module
) -> Tensor:
    """What a pre-norm block makes of the first token, (B, L, D) -> (B, 1, D): all that is wanted of a tower's last."""
    normed = norm1(hidden)
    token = hidden[:, :1] + attention.attend(normed[:, :1], normed)
    return token + mlp(norm2(token))


def _as_weights(x: Tensor, layer: nn.Module) -> Tensor:
    """In the type of the weights, once, where autocast would convert before each of three layers."""
    return x.to(cast(torch.Tensor, layer.weight).dtype)
