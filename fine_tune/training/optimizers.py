"""The optimisers by name, and their state as named tensors that a checkpoint holds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import get_optimizer_state_dict, set_optimizer_state_dict

from fine_tune.distributed.networks import WHOLE
from tgo_pipeline.params import FineTuneParams


def make_optimizer(parameters: list[nn.Parameter], params: FineTuneParams) -> torch.optim.Optimizer:
    """The optimiser of a training; its rate is set before every update.

    Adafactor is Diffusion-DPO's for SDXL: an external rate, updates clipped at RMS 1, no first moment, so that it
    keeps a row and a column for each matrix where AdamW keeps two copies of it.
    """
    if params.optimizer == "adafactor":
        from transformers.optimization import Adafactor

        return Adafactor(
            parameters,
            lr=params.learning_rate,
            clip_threshold=1.0,
            weight_decay=params.weight_decay,
            scale_parameter=False,
            relative_step=False,
        )
    return torch.optim.AdamW(
        parameters,
        lr=params.learning_rate,
        betas=(params.adam_beta1, params.adam_beta2),
        eps=params.adam_epsilon,
        weight_decay=params.weight_decay,
        fused=params.precision != "fp16",  # one kernel; the loss scaler wants the other path
    )


def named_state(optimizer: torch.optim.Optimizer, network: nn.Module) -> dict[str, Tensor]:
    """Everything that the optimiser keeps, as `<key>.<name of the parameter>`; numbers become tensors of no dimension.

    Whole and on the CPU of the first process, empty elsewhere; all processes have to call it. A parameter has no state
    before its first update: fp16 skips updates that overflow.
    """
    if not optimizer.state:  # torch would make one by an update, and count it
        return {}
    kept: Any = get_optimizer_state_dict(network, optimizer, options=WHOLE).get("state", {})
    return {
        f"{key}.{name}": _as_tensor(value)
        for name, values in kept.items()
        for key, value in values.items()
        if value is not None
    }


def load_named_state(
    optimizer: torch.optim.Optimizer, network: nn.Module, state: Mapping[str, Tensor]
) -> None:
    """Give the optimiser of a network what `named_state` returned, each process its shards of it."""
    if not state:
        return
    kept: dict[str, Any] = {}
    for full, value in state.items():
        key, _, name = full.partition(".")
        kept.setdefault(name, {})[key] = _from_tensor(value)
    names: dict[Tensor, str] = {parameter: name for name, parameter in network.named_parameters()}
    groups = [
        {**group, "params": [names[each] for each in group["params"]]} for group in optimizer.param_groups
    ]
    optimizer.zero_grad()  # torch makes the state to fill by an update of nothing, and only without gradients
    set_optimizer_state_dict(network, optimizer, {"state": kept, "param_groups": groups}, options=WHOLE)
    for parameter in [each for each in optimizer.state if names[each] not in kept]:
        del optimizer.state[parameter]  # that one it was not to make
    for parameter, moments in optimizer.state.items():
        moments |= {key: _laid_out(value, parameter) for key, value in moments.items()}


def _laid_out(value: Any, parameter: Tensor) -> Any:
    """A moment in the order of its parameter's memory, channels last say, as the optimiser makes it."""
    if (
        not isinstance(value, Tensor)
        or value.shape != parameter.shape
        or value.stride() == parameter.stride()
    ):
        return value
    return torch.empty_like(parameter, dtype=value.dtype, requires_grad=False).copy_(value)


def _as_tensor(value: Any) -> Tensor:
    """A whole number as int64, another as float64: no optimiser keeps such tensors itself."""
    if isinstance(value, Tensor):
        return value
    return torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)


def _from_tensor(value: Tensor) -> Any:
    return value.item() if value.dtype in (torch.int64, torch.float64) else value.clone()
