"""How a network's weights are held: in half precision where autocast rounds them at every call anyway; channels last.

A linear layer or a convolution computes in half precision under autocast, whatever its weights are held in. Norms,
embeddings and single parameters are used as they are: rounding those changes the answer.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any, Literal

import torch
from accelerate.utils import convert_outputs_to_fp32
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd

from tgo_pipeline.params.checks import Precision

Place = tuple[nn.Module, str]
Held = Precision | Literal["stored"]
"""What weights are held in as they are read; `stored` is what their file has, until they are cut into shards."""
DTYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def precision_of(dtype: torch.dtype) -> Precision:
    """The name of a type; fp32 for one that has none."""
    names: dict[torch.dtype, Precision] = {each: name for name, each in DTYPES.items()}
    return names.get(dtype, "fp32")


def hold(network: nn.Module, precision: Precision, others: Precision = "fp32") -> None:
    """Hold in `precision` the weights that autocast rounds to it, and everything else in `others`.

    With others in float32, the network answers under autocast of that precision as a float32 one, to the bit. What the
    library keeps in float32 in any case (the time embedding and norms of Wan) stays so.
    """
    rounded, kept = {id(tensor) for tensor in products(network)}, _kept(network.named_parameters(), network)
    places = _places(network.modules())
    while places:  # one after the other, so that little is there in both types
        parameter, where = places.popitem()
        held = "fp32" if id(parameter) in kept else precision if id(parameter) in rounded else others
        _hold_in(DTYPES[held], parameter, where)
    wide = _kept(network.named_modules(), network)
    for module in network.modules():
        _hold_buffers(module, DTYPES["fp32" if id(module) in wide else others])


def _kept(named: Iterable[tuple[str, object]], network: nn.Module) -> set[int]:
    """The identities of those parts of a network whose names are, or lie in, what `_keep_in_fp32_modules` lists."""
    kept = set(getattr(network, "_keep_in_fp32_modules", None) or ())
    return {id(part) for name, part in named if kept & set(name.split("."))}


def hold_parts(modules: Collection[nn.Module], rounded: set[Place], precision: Precision) -> None:
    """Do the same with what some modules of a network have themselves; parameters in training become float32."""
    for parameter, where in _places(modules).items():
        is_half = not parameter.requires_grad and rounded.issuperset(where)
        _hold_in(DTYPES[precision if is_half else "fp32"], parameter, where)
    for module in modules:
        _hold_buffers(module, torch.float32)


def _hold_in(dtype: torch.dtype, parameter: nn.Parameter, where: list[Place]) -> None:
    if parameter.dtype != dtype:
        _put(nn.Parameter(parameter.detach().to(dtype), parameter.requires_grad), where)


def _hold_buffers(module: nn.Module, dtype: torch.dtype) -> None:
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.is_floating_point():
            setattr(module, name, buffer.to(dtype))


def hold_as(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Hold each parameter of a network without content in the type that it has in `state`."""
    for name, parameter in list(network.named_parameters(remove_duplicate=False)):
        if name in state and parameter.is_floating_point():
            owner, _, own = name.rpartition(".")
            dtype = state[name].dtype
            _hold_in(dtype, parameter, [(network.get_submodule(owner), own)])


def product_places(network: nn.Module) -> set[Place]:
    """Where the `products` of a network are."""
    rounded = {id(tensor) for tensor in products(network)}
    every = _places(network.modules()).items()
    return {place for parameter, where in every if id(parameter) in rounded for place in where}


def lay_out(network: nn.Module) -> None:
    """On a GPU put the weights of two-dimensional convolutions in the order channels last, which it computes in.

    What comes out of a convolution follows its weights, so that cuDNN turns nothing around on the way. Numbers stay,
    but for the order of sums. Not on a CPU, where what was drawn before should be drawn again; nor before sharding,
    which wants plain tensors. Parameters are replaced: call it before an optimiser or an adapter has them.
    """
    convolutions = {id(each) for each in products(network) if each.dim() == 4 and each.is_cuda}
    for parameter, where in _places(network.modules()).items():
        if id(parameter) in convolutions:
            turned = parameter.detach().to(memory_format=torch.channels_last)
            _put(nn.Parameter(turned, parameter.requires_grad), where)


def _places(modules: Iterable[nn.Module]) -> dict[nn.Parameter, list[Place]]:
    """Where the floating-point parameters of some modules are: several places for one that modules share."""
    found: dict[nn.Parameter, list[Place]] = {}
    for module in modules:
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.is_floating_point():
                found.setdefault(parameter, []).append((module, name))
    return found


def _put(parameter: nn.Parameter, where: list[Place]) -> None:
    for module, name in where:
        setattr(module, name, parameter)


def products(network: nn.Module) -> list[Tensor]:
    """The weights and biases of linear layers and convolutions that no other module shares (a tied embedding)."""
    inside, outside = {}, set()
    for module in network.modules():
        own = module.parameters(recurse=False)
        if isinstance(module, (nn.Linear, _ConvNd)):
            inside |= {id(tensor): tensor for tensor in own}
        else:
            outside |= {id(tensor) for tensor in own}
    return [tensor for key, tensor in inside.items() if key not in outside]


def compute_in(network: Any, precision: Precision) -> None:
    """From now on the network computes under autocast whoever calls it, a pipeline that draws too; it answers float32.

    Without autocast, half-held weights do not multiply float32 inputs.
    """
    if precision != "fp32":
        network.forward = convert_outputs_to_fp32(_cast(network, network.forward, DTYPES[precision]))


def _cast(network: nn.Module, forward: Any, half: torch.dtype) -> Any:
    @functools.wraps(forward)
    def computed(*args: Any, **kwargs: Any) -> Any:
        device = next(network.parameters()).device.type  # shards reach their device after this wrapping
        if device == "meta":  # which has no autocast; a plan rounds by itself
            return forward(*args, **kwargs)
        with torch.autocast(device, half):
            return forward(*args, **kwargs)

    return computed


@contextlib.contextmanager
def seen_in_float32(network: nn.Module) -> Iterator[None]:
    """While it lasts, half-held weights look like float32 without content.

    For peft, which draws an adapter in float32 and then rounds it to the type of the layer that it lies on.
    """
    kept = {each: where for each, where in _places(network.modules()).items() if each.dtype != torch.float32}
    for each, where in kept.items():
        empty = torch.zeros((), device=each.device).expand(each.shape)
        _put(nn.Parameter(empty, requires_grad=False), where)
    try:
        yield
    finally:
        for each, where in kept.items():
            _put(each, where)
