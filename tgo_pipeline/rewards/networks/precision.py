"""Half precision inside the towers: where it applies, and of which kind it is.

Linear layers and attention of the transformer blocks have their weights in float16, converted once, and run under
autocast; those of vision-language models in bfloat16, as they were trained and as float16 would overflow. The stream
between blocks, layer norms, embeddings, projections, cosines and heads stay in float32.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from typing import Literal, cast

import torch
from torch import nn

from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.networks.attention import Attention

Precision = Literal["fp32", "fp16", "bf16"]
_NAMES: dict[torch.dtype, Precision] = {torch.float16: "fp16", torch.bfloat16: "bf16"}
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
    halves = [half for half in map(_half, towers) if half is not None]
    return _NAMES[halves[0]] if halves else "fp32"


def rounded(towers: Iterable[nn.ModuleList], half: torch.dtype) -> None:
    """Round the weights of linear layers and attention to half precision, in place."""
    for blocks in towers:
        for module in blocks.modules():
            if isinstance(module, (nn.Linear, Attention)):
                for parameter in module.parameters(recurse=False):
                    parameter.data = parameter.data.to(half)


def autocast(blocks: nn.ModuleList, device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The context to run `blocks` in, as precise as their weights whatever surrounds it."""
    if device.type == "meta":
        return contextlib.nullcontext()  # where nothing is computed, there is no autocast
    half = _half(blocks)
    return torch.autocast(device.type, half or torch.float16, enabled=half is not None)


def exactly(device: torch.device) -> contextlib.AbstractContextManager[object]:
    """The context to compute in as given, whatever surrounds it."""
    return contextlib.nullcontext() if device.type == "meta" else torch.autocast(device.type, enabled=False)


def _half(blocks: nn.ModuleList) -> torch.dtype | None:
    """The half precision that weights of these blocks are kept in, if any."""
    return next((each.dtype for each in blocks[0].parameters() if each.dtype in _NAMES), None)
