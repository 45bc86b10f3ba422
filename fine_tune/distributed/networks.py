"""Networks over several processes: a whole copy in each (DDP), or cut into shards (FSDP2); tensors to and fro."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, distribute_tensor

from fine_tune.distributed.processes import Group
from fine_tune.policies.base import Policy
from tgo_pipeline.errors import TgoError

if TYPE_CHECKING:
    from accelerate.utils.dataclasses import FullyShardedDataParallelPlugin


class Spread:
    """A policy's networks over the processes of a group: whole in each (DDP), or cut into shards (FSDP2)."""

    def __init__(self, policy: Policy, group: Group, device: torch.device) -> None:
        self._copy: Any = None
        if group.sharded:
            mesh = init_device_mesh(device.type, (group.size,))
            for network in policy.networks:
                _shard(network, mesh)
        elif group.size > 1:
            self._copy = torch.nn.parallel.DistributedDataParallel(
                policy.network,
                device_ids=[device.index] if device.type == "cuda" else None,
                broadcast_buffers=False,
                gradient_as_bucket_view=True,
            )
            policy.run_through(self._copy)

    def accumulate(self, *, last: bool) -> contextlib.AbstractContextManager[None]:
        """For forward and backward of one part of a batch: gradients of whole copies meet in the last one alone."""
        return contextlib.nullcontext() if last or self._copy is None else self._copy.no_sync()


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


def whole(tensors: Mapping[str, Tensor], keep: bool) -> dict[str, Tensor]:
    """The tensors put together from their shards, on the CPU, where they are to be kept; empty elsewhere.

    All processes have to call it with the same names in the same order.
    """
    kept = {}
    for name, tensor in tensors.items():
        full = (tensor.full_tensor() if isinstance(tensor, DTensor) else tensor).detach()
        if keep:
            kept[name] = full.cpu()
    return kept


def placed(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor cut and placed as `like` is, if that is a shard of the same shape."""
    if isinstance(value, DTensor) or not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    value = value.to(like.device_mesh.device_type)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)
