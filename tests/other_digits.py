"""A pytest plugin that lets this processor stand for the others: every operation gives other last digits.

    python -m pytest -p tests.other_digits tests/rewards/test_attention.py

Processors differ in the order in which they add up. That order depends on the shapes of the operands, on a number's
place in the result, and on where operands lie in memory. Here every number of a result is moved by -1, 0 or 1 unit in
its last place, drawn from a seed that is made of exactly these. One computation done twice gives the same bits; one in
another shape does not, as on the processor where that matters most.

It acts in the main thread of the process: a test that compares with another process or thread has no use for it.
"""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map_only

PRODUCTS = {"addmm", "addmv", "baddbmm", "bmm", "dot", "einsum", "linear", "matmul", "mm", "mv"}
"""Here the place of the operands in memory counts too."""
INEXACT = PRODUCTS | set(
    """
    _fused_rms_norm _log_softmax _native_batch_norm_legit _softmax batch_norm cosine_similarity group_norm instance_norm
    layer_norm linalg_norm linalg_vector_norm log_softmax logsumexp mean mse_loss native_group_norm native_layer_norm
    norm rms_norm softmax std sum var var_mean scaled_dot_product_attention _scaled_dot_product_attention_math
    _scaled_dot_product_flash_attention_for_cpu _upsample_bicubic2d_aa _upsample_bilinear2d_aa conv2d conv_transpose2d
    convolution upsample_bicubic2d upsample_bilinear2d cos erf exp expm1 gelu log log1p pow rsqrt sigmoid silu sin
    softplus tanh _log_softmax_backward_data _softmax_backward_data convolution_backward gelu_backward
    native_group_norm_backward native_layer_norm_backward silu_backward
    _scaled_dot_product_flash_attention_for_cpu_backward
    """.split()  # noqa: SIM905
)
"""Operations of ATen whose last digit no standard fixes: a sum or product of two numbers is the nearest number on every
processor. float64 is left alone: the resize of images computes with whole numbers in it, exactly in any order."""
LARGEST = 5_000_000
KEPT = 20_000
"""Patterns in memory."""


class OtherDigits(TorchDispatchMode):
    """While it is active, results of inexact operations have last digits of their own."""

    def __init__(self) -> None:
        super().__init__()
        self._patterns: dict[Any, Tensor] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        name = func._schema.name.removeprefix("aten::")
        if name not in INEXACT:
            return result
        operands = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        seed: list[Any] = [name, *(tuple(operand.shape) for operand in operands)]
        if name in PRODUCTS:
            seed += [operand.data_ptr() % 64 for operand in operands if _is_plain(operand)]
        return tree_map_only(Tensor, lambda tensor: self._moved(tensor, seed), result)

    def _moved(self, tensor: Tensor, seed: list[Any]) -> Tensor:
        """Whole numbers stay: sums of those are exact."""
        if not (_is_plain(tensor) and tensor.is_floating_point() and tensor.numel() < LARGEST):
            return tensor
        if tensor.dtype == torch.float64 or tensor.device.type != "cpu":
            return tensor
        return torch.where(tensor == tensor.round(), tensor, tensor * self._pattern(tensor, seed))

    def _pattern(self, like: Tensor, seed: list[Any]) -> Tensor:
        key = repr([*seed, tuple(like.shape), like.dtype])
        if key not in self._patterns:
            if len(self._patterns) >= KEPT:
                self._patterns.clear()
            number = int.from_bytes(hashlib.sha256(key.encode()).digest()[:7], "big")
            with _disable_current_modes():
                units = torch.randint(-1, 2, like.shape, generator=torch.Generator().manual_seed(number))
                self._patterns[key] = units.to(like.dtype) * torch.finfo(like.dtype).eps + 1
        return self._patterns[key]


def _is_plain(tensor: Tensor) -> bool:
    return type(tensor) in (Tensor, torch.nn.Parameter)


def pytest_configure(config: pytest.Config) -> None:
    OtherDigits().__enter__()


@pytest.fixture(autouse=True)
def _other_digits() -> None:
    """Every test runs with them, or says that it does not."""
    a, b = torch.arange(320.0).reshape(8, 40).sin(), torch.arange(640.0).reshape(40, 16).cos()
    assert torch.equal(a @ b, a @ b) and not torch.equal((a @ b)[:4], a[:4] @ b)
