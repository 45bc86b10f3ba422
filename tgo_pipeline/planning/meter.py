"""Count the floating-point operations and the bytes that are alive while torch runs, really or in imagination."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map
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
    are used, or held (`hold`). Those of torch's meta device count for a meter of what is `imagined`, and no others.
    """

    def __init__(self, imagined: bool = False) -> None:
        super().__init__()
        self._imagined = imagined
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
        with self:  # in inference mode, operations arrive that are made of others
            out = func.decompose(*args, **(kwargs or {})) if _is_made_of_others(func) else NotImplemented
        if out is not NotImplemented:
            return out
        out = func(*args, **(kwargs or {}))
        count = _FLOPS.get(func._overloadpacket)
        if count is not None:
            self.flops += count(*args, **(kwargs or {}), out_val=out)
        for leaf in tree_leaves((args, kwargs, out)):
            if isinstance(leaf, Tensor):
                self._see(leaf)
        return out

    def _see(self, tensor: Tensor) -> None:
        if tensor.is_meta != self._imagined:
            return
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
        """Forget what is no longer alive: torch 2.12 does not survive callbacks on storages, which would tell."""
        for key in [key for key, ref in self._known.items() if key not in self._held and ref.expired()]:
            del self._known[key]
            self._bytes -= self._sizes.pop(key)


@contextlib.contextmanager
def imagined() -> Iterator[None]:
    """While it lasts, new tensors have a shape and no content (torch's meta device): networks of any size fit.

    Attention is the kernel that keeps no weights, which real devices choose by themselves.
    """
    with torch.device("meta"), fused_attention():
        yield


@contextlib.contextmanager
def fused_attention() -> Iterator[None]:
    """As `imagined`, where only what is given is imagined: sizes that a network reads have their content."""
    with warnings.catch_warnings(), _Attention():
        warnings.filterwarnings(
            "ignore", "Mismatch dtype between input and weight"
        )  # of rms_norm, as under autocast
        yield


def rounded(precision: str) -> contextlib.AbstractContextManager[object]:
    """What torch's autocast does in `precision` (fp32: nothing), for the meta device, which has none."""
    return _Rounded(_HALF[precision]) if precision in _HALF else contextlib.nullcontext()


_HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
_ROUNDED = (
    functional.linear,
    functional.conv2d,
    functional.conv3d,
    functional.scaled_dot_product_attention,
    torch.matmul,
    torch.bmm,
)
_EXACT = (functional.layer_norm, functional.group_norm, functional.softmax, torch.softmax)
"""Functions that autocast computes in half precision, and in float32 (torch's lists for CUDA)."""


class _Attention(TorchFunctionMode):
    """Takes the fused kernel for attention."""

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is functional.scaled_dot_product_attention:
            return _fused(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


class _Rounded(TorchFunctionMode):
    """Converts what functions are given; trained weights once, as autocast does."""

    def __init__(self, half: torch.dtype) -> None:
        super().__init__()
        self._half = half
        self._weights: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        given: Any = (args, kwargs or {})
        if func in _ROUNDED:
            given = tree_map(self._round, given)
        elif func in _EXACT:
            given = tree_map(_single, given)
        return func(*given[0], **given[1])

    def _round(self, value: Any) -> Any:
        if not isinstance(value, Tensor) or value.dtype != torch.float32:
            return value
        if not (value.is_leaf and value.requires_grad):
            return value.to(self._half)
        if id(value) not in self._weights:
            self._weights[id(value)] = (value, value.to(self._half))
        return self._weights[id(value)][1]


def _single(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.dtype in _HALF.values() else value


def _fused(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None = None, *_: Any, **options: Any
) -> Tensor:
    mask = options.get("attn_mask", mask)
    if mask is not None and mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, dtype=query.dtype)
    causal = bool(options.get("is_causal", False)) and mask is None
    return aten._scaled_dot_product_flash_attention_for_cpu(query, key, value, 0.0, causal, attn_mask=mask)[0]


def backward(loss: Tensor) -> None:
    """Gradients of an imagined loss, computed inside `imagined`, which torch leaves on the way in if given a tensor."""
    edge = torch.autograd.graph.get_gradient_edge(loss)
    torch.autograd.backward((edge,), (torch.ones_like(loss),))


def _is_made_of_others(func: Any) -> bool:
    return torch._C._dispatch_has_kernel_for_dispatch_key(func.name(), "CompositeImplicitAutograd")


def _attention(query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_flop_count(query.shape, key.shape, value.shape)


def _attention_backward(grad: Tensor, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> int:
    return sdpa_backward_flop_count(grad.shape, query.shape, key.shape, value.shape)


_FLOPS: dict[Any, Any] = {
    **flop_registry,
    aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_backward,
}
"""How to count an operation: torch's registry, and what it lacks."""
