"""Count the floating-point operations and the bytes that are alive while torch runs, on real or on fake tensors."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop_count, sdpa_flop_count

aten = torch.ops.aten


@dataclass(frozen=True)
class Cost:
    """What some work takes: floating-point operations (a multiply and an add are two) and bytes at the peak."""

    flops: float = 0.0
    peak_bytes: int = 0

    def times(self, factor: float) -> Cost:
        """The work done `factor` times, one after the other: the same peak."""
        return Cost(self.flops * factor, self.peak_bytes)

    def then(self, other: Cost) -> Cost:
        """This work and another one after it, with nothing kept in between."""
        return Cost(self.flops + other.flops, max(self.peak_bytes, other.peak_bytes))


class Meter(TorchDispatchMode):
    """While it is entered, counts operations as torch's `FlopCounterMode` does, and bytes of tensors that are alive.

    Bytes are those of storages, from the operation that makes one to the last reference to it: what an allocator is
    asked for, without its rounding and without the workspaces inside of kernels. Tensors from before count once they
    are held (`hold`), or come out of an operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0.0
        self.peak_bytes = 0
        self._known: dict[int, StorageWeakRef] = {}
        self._sizes: dict[int, int] = {}
        self._held: set[int] = set()
        self._bytes = 0
        """Of all storages that were alive when they were last looked at."""

    def hold(self, *modules: nn.Module) -> int:
        """Count the parameters and buffers of networks that exist and stay; how many bytes they add."""
        before = self._bytes
        for module in modules:
            for tensor in (*module.parameters(), *module.buffers()):
                self._see(tensor)
                self._held.add(tensor.untyped_storage()._cdata)
        return self._bytes - before

    def restart_peak(self) -> None:
        """Measure the peak from here on."""
        self._sweep()
        self.peak_bytes = self._bytes

    @property
    def cost(self) -> Cost:
        """What was counted until now."""
        return Cost(self.flops, self.peak_bytes)

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        out = func(*args, **(kwargs or {}))
        count = _FLOPS.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return out

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key = storage._cdata  # not given to another storage as long as there is a reference, also a weak one
        if key in self._known:
            return
        self._known[key], self._sizes[key] = StorageWeakRef(storage), storage.nbytes()
        self._bytes += self._sizes[key]
        if self._bytes > self.peak_bytes:
            self._sweep()
            self.peak_bytes = max(self.peak_bytes, self._bytes)

    def _sweep(self) -> None:
        """Forget what is no longer alive; a callback would be told, but torch does not survive those on storages."""
        for key in [key for key, ref in self._known.items() if key not in self._held and ref.expired()]:
            del self._known[key]
            self._bytes -= self._sizes.pop(key)


@contextlib.contextmanager
def imagined() -> Iterator[None]:
    """While it lasts, torch computes shapes and no numbers: tensors take no memory, whatever their size."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    mode.cache_enabled = False  # with its cache, torch 2.12 damages memory where storages are looked at
    with warnings.catch_warnings(), mode:
        warnings.filterwarnings("ignore", "Accessing the data pointer of FakeTensor")
        yield


def parameter_count(module: nn.Module) -> int:
    """The numbers that a network's parameters are."""
    return sum(parameter.numel() for parameter in module.parameters())


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape)


ATTENTION_ON_CPU = {
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""What torch's own registry of counted operations lacks; in the form that `FlopCounterMode` takes it too."""
_FLOPS: dict[Any, Any] = {**flop_registry, **ATTENTION_ON_CPU}
