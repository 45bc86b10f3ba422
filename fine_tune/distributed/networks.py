"""Networks over several processes: a whole copy in each, or cut into shards (FSDP2); tensors to and fro."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
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

if TYPE_CHECKING:
    from accelerate.utils.dataclasses import FullyShardedDataParallelPlugin

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True, strict=False)
"""States as a checkpoint holds them: of what is trained, on the CPU of the first process, by plain names."""


class Spread:
    """A policy's networks over the processes of a group: whole in each, or cut into shards (FSDP2)."""

    def __init__(self, policy: Policy, group: Group, device: torch.device) -> None:
        self._group = group
        if group.sharded:
            mesh = init_device_mesh(device.type, (group.size,))
            for network in policy.networks:
                _shard(network, mesh)
        elif group.size > 1:
            # processors of two kinds may draw an adapter differently
            for parameter in policy.trainable().values():
                distributed.broadcast(parameter.data, src=0)

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
                parameter.grad = parameter.grad.contiguous().div_(self._group.size)
                pending.append(distributed.all_reduce(parameter.grad, async_op=True))
        for work in pending:
            work.wait()


def _shard(network: nn.Module, mesh: Any) -> None:
    """Shard in place, in the units and with the options of accelerate's configuration.

    Weights stay float32 and are gathered as such: a process computes what it would alone.
    """
    from accelerate.utils.dataclasses import FullyShardedDataParallelPlugin
    from torch.distributed.fsdp import OffloadPolicy, fully_shard

    plugin = FullyShardedDataParallelPlugin()
    if plugin.fsdp_version != 2:
        raise TgoError("accelerate's configuration asks for FSDP of version 1: set fsdp_version to 2.")
    options: dict[str, Any] = {
        "mesh": mesh,
        "reshard_after_forward": plugin.reshard_after_forward,
        "offload_policy": plugin.cpu_offload or OffloadPolicy(),
    }
    for module in (*units(network, plugin), network):
        fully_shard(module, **options)


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
