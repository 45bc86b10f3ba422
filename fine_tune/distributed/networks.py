"""Networks over several processes: a whole copy in each, or cut into shards (FSDP2); tensors to and fro."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, distributed, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    set_model_state_dict,
)
from torch.distributed.device_mesh import init_device_mesh

from fine_tune.distributed.processes import Group
from fine_tune.policies.base import Policy
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators.networks.held import DTYPES, Place, compute_in, hold_parts, product_places

if TYPE_CHECKING:
    from accelerate.utils.dataclasses import FullyShardedDataParallelPlugin

    from tgo_pipeline.params.checks import Precision

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True, strict=False)
"""States as a checkpoint holds them: of what is trained, on the CPU of the first process, by plain names."""


class Spread:
    """A policy's networks over the processes of a group: whole in each, or cut into shards (FSDP2)."""

    def __init__(self, policy: Policy, group: Group, device: torch.device) -> None:
        self._group = group
        if group.sharded:
            mesh = init_device_mesh(device.type, (group.size,))
            is_rounded = policy.params.method == "full" and policy.params.precision != "fp32"
            half = DTYPES[policy.params.precision] if is_rounded else None
            for network in policy.networks:
                _shard(network, mesh, policy.params.precision, half if network is policy.network else None)
            if (
                half is not None
            ):  # whoever calls it, a pipeline that draws too: halves do not multiply float32
                compute_in(policy.network, policy.params.precision)
        elif group.size > 1:
            # processors of two kinds may draw an adapter differently
            for parameter in policy.trainable().values():
                distributed.broadcast(_in_line(parameter.data), src=0)

    def average(self, parameters: Iterable[nn.Parameter]) -> None:
        """Turn the gradients of each process's share into those of the batch; those of shards are already.

        Gradients meet after the backward pass, not in it as torch's DistributedDataParallel has them: processes have to
        agree first that none ran out of memory. It takes a hundredth of a step of several parts.
        """
        if self._group.sharded or self._group.size == 1:
            return
        pending = []
        for parameter in parameters:
            if parameter.grad is not None:
                pending.append(
                    distributed.all_reduce(_in_line(parameter.grad.div_(self._group.size)), async_op=True)
                )
        for work in pending:
            work.wait()


def _in_line(tensor: Tensor) -> Tensor:
    """The numbers of a tensor in the order of its memory, which they share, for processes to exchange."""
    return tensor.as_strided((tensor.numel(),), (1,))


def _shard(network: nn.Module, mesh: Any, precision: Precision, half: torch.dtype | None) -> None:
    """Shard in place, in the units and with the options of accelerate's configuration.

    A unit is of the file's type until it is cut: then what is trained is float32, and what is frozen is held in
    `precision` where autocast rounds it. Shards are gathered as they are: a process computes what it would alone. With
    `half`, weights that autocast rounds to it are rounded before they are gathered, which is half as much to send and
    to hold and the same numbers; gradients are summed in float32. Norms and whatever else is used as it is are gathered
    as float32.
    """
    from accelerate.utils.dataclasses import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import MixedPrecisionPolicy, OffloadPolicy, fully_shard

    plugin = FullyShardedDataParallelPlugin()
    if plugin.fsdp_version != 2:
        raise TgoError("accelerate's configuration asks for FSDP of version 1: set fsdp_version to 2.")
    options: dict[str, Any] = {
        "mesh": mesh,
        "reshard_after_forward": plugin.reshard_after_forward,
        "offload_policy": plugin.cpu_offload or OffloadPolicy(),
    }
    in_half = MixedPrecisionPolicy(half, torch.float32, cast_forward_inputs=False)
    rounded = product_places(network)
    for unit in (*units(network, plugin), network):
        hold_parts(list(_parts(unit)), rounded, precision)
        if half is None:
            fully_shard(unit, **options)
            continue
        if exact := [each for each in _parts(unit) if each is not unit and _is_exact(each, rounded)]:
            fully_shard(exact, **options)
        own = [place for part in _parts(unit) for place in _own(part)]
        policy = in_half if own and rounded.issuperset(own) else MixedPrecisionPolicy()
        fully_shard(unit, **options, mp_policy=policy)


def _parts(unit: nn.Module) -> Iterator[nn.Module]:
    """A unit and the modules inside it that are not sharded yet."""
    from torch.distributed.fsdp import FSDPModule

    yield unit
    for child in unit.children():
        if not isinstance(child, FSDPModule):
            yield from _parts(child)


def _own(module: nn.Module) -> list[Place]:
    return [(module, name) for name, _ in module.named_parameters(recurse=False)]


def _is_exact(module: nn.Module, rounded: set[Place]) -> bool:
    """Whether a module has parameters, none of which may be rounded, and no modules inside."""
    own = _own(module)
    return bool(own) and not any(module.children()) and rounded.isdisjoint(own)


def units(network: nn.Module, plugin: FullyShardedDataParallelPlugin) -> list[nn.Module]:
    """The modules inside a network that are gathered one at a time, children before their parents.

    accelerate's configuration names one of torch's policies, which says of a module whether it is a unit.
    """
    plugin.set_auto_wrap_policy(network)
    policy: Any = plugin.auto_wrap_policy
    if policy is None:
        return []
    inside = reversed(list(network.modules())[1:])
    return [each for each in inside if policy(module=each, recurse=False, nonwrapped_numel=_count(each))]


def _count(module: nn.Module) -> int:
    """Parameters in a module, each number once."""
    return sum(parameter.numel() for parameter in module.parameters())


def whole_weights(network: nn.Module, names: Collection[str]) -> dict[str, Tensor]:
    """Parameters put together from their shards, on the CPU of the first process; empty elsewhere.

    All processes have to call it. Without shards they are the network's own memory where that is on the CPU.
    """
    found: dict[str, Any] = get_model_state_dict(network, options=WHOLE)
    return {name: found[name] for name in names if name in found}


def load_whole_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Give a network the parameters that `whole_weights` returned, each process its shards of them."""
    set_model_state_dict(network, dict(weights), options=WHOLE)
