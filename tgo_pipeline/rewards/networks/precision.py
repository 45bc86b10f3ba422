"""Half precision inside the towers: where it applies, and why it is float16.

Linear layers and attention of the transformer blocks have their weights in float16, converted once, and run under
autocast. The stream between blocks, layer norms, embeddings, projections, cosines and heads stay in float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Literal, cast

import torch
from torch import nn

from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.networks.attention import Attention

Precision = Literal["fp32", "fp16"]
BF16_ERROR = "at full size it moves PickScore by 5e-2 and ImageReward by 1e-2, 16 times what fp16 does"


def check_precision(precision: str) -> Precision:
    """`precision` if it is one that rewards run in. Raises `TgoError` otherwise."""
    if precision == "bf16":
        raise TgoError(f"precision bf16: {BF16_ERROR}. Use fp16 or fp32.")
    if precision not in ("fp32", "fp16"):
        raise TgoError(f"precision {precision!r} is unknown: choose fp32 or fp16.")
    return cast(Precision, precision)


def precision_of(towers: Iterable[nn.ModuleList]) -> Precision:
    """What the weights of these transformer blocks are kept in."""
    return "fp16" if any(_is_half(blocks) for blocks in towers) else "fp32"


def to_half(towers: Iterable[nn.ModuleList]) -> None:
    """Round the weights of linear layers and attention to float16, in place."""
    for blocks in towers:
        for module in blocks.modules():
            if isinstance(module, (nn.Linear, Attention)):
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.half()


def autocast(blocks: nn.ModuleList, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The context to run `blocks` in, as precise as their weights whatever surrounds it."""
    if device.type == "meta":
        return contextlib.nullcontext()  # where nothing is computed, there is no autocast
    return torch.autocast(device.type, torch.float16, enabled=_is_half(blocks))


def _is_half(blocks: nn.ModuleList) -> bool:
    return any(parameter.dtype == torch.float16 for parameter in blocks[0].parameters())
