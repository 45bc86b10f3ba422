"""A network that answers with a weighted sum of several: a base and the modules that preference guidance adds to it.

Modules that are adapters share the base's weights and go through one call of the network together, each on rows of its
own. Networks with weights of their own are called one after the other: rows with different weights share no matrix
product, so a call for all of them (`torch.func.vmap` over stacked weights) would do the same arithmetic, hold a second
copy of every network, and lose the attention kernels that have no batching rule.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import logging
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from tgo_pipeline.errors import TgoError
from tgo_pipeline.memory import OutOfMemory, attempt

log = logging.getLogger("tgo")
Kind = Literal["pgd", "cpgd"]
SHARED = ("img_ids", "txt_ids")
"""Arguments that all rows of a batch share: position grids, whose first dimension counts tokens."""


class Guidance:
    """How strongly preference guides a pipeline; each value may change between its calls.

    `pgd`: e = (1 - w) e_ref + w e_win; `cpgd`: e = e_ref + w (e_plus - e_minus), w the strength (arXiv 2602.18799).
    """

    def __init__(self, kind: Kind, strength: float) -> None:
        self.kind: Kind = kind
        self.strength = strength
        self.branches_per_call = 3
        """How many of base, positive and negative go through the network together; fewer need less memory."""

    @property
    def strength(self) -> float:
        """The weight w; 0 is the base model itself, and for `pgd` 1 is the positive model itself."""
        return self._strength

    @strength.setter
    def strength(self, value: float) -> None:
        if not math.isfinite(value):
            raise TgoError(f"the guidance strength is {value}: it must be a finite number.")
        self._strength = float(value)

    @property
    def branches_per_call(self) -> int:
        """How many of the networks' branches one call computes together. Raises `TgoError` below 1."""
        return self._branches_per_call

    @branches_per_call.setter
    def branches_per_call(self, value: int) -> None:
        if value < 1:
            raise TgoError(f"guidance.branches_per_call is {value}: it must be 1 or more.")
        self._branches_per_call = int(value)

    def coefficients(self) -> tuple[float, ...]:
        """The weights of base, positive and (`cpgd`) negative network."""
        w = self.strength
        return (1.0 - w, w) if self.kind == "pgd" else (1.0, w, -w)


@dataclass(frozen=True)
class Branch:
    """One term of the sum: a network as it is, or with one of its inactive adapters instead of its active ones."""

    network: nn.Module
    adapter: str | None = None


class GuidedNetwork(nn.Module):
    """Takes the place of a pipeline's `unet` or `transformer`; every attribute that it lacks is the base network's.

    The sum is of the networks' outputs for all rows, so it comes before classifier-free guidance. It is taken in
    float32 or better. A term without weight costs nothing, and one network alone with weight 1 answers as it is, to the
    last bit.
    """

    def __init__(self, branches: Sequence[Branch], guidance: Guidance) -> None:
        super().__init__()
        self.base = branches[0].network
        self.others = nn.ModuleList(
            branch.network for branch in branches[1:] if branch.network is not self.base
        )
        self.guidance = guidance
        self.branches = tuple(branches)
        self._adapters = _Adapters(self.base, [b.adapter for b in branches if b.adapter is not None])

    @property
    def resting(self) -> list[str]:
        """The adapters that the base network itself has active."""
        return self._adapters.resting

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("base"), name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The base network's arguments and result; its first tensor has one row for each sample."""
        coefficients = self.guidance.coefficients()
        terms = [(b, c) for b, c in zip(self.branches, coefficients, strict=True) if c != 0]
        outputs = self._outputs([branch for branch, _ in terms], args, kwargs)
        if [c for _, c in terms] == [1.0]:
            return outputs[0]
        answers = [_tensor(output) for output in outputs]
        precise = torch.promote_types(answers[0].dtype, torch.float32)
        weighted = [c * answer.to(precise) for (_, c), answer in zip(terms, answers, strict=True)]
        total = functools.reduce(torch.add, weighted)
        return _replaced(outputs[0], total.to(answers[0].dtype))

    def _outputs(self, branches: Sequence[Branch], args: tuple, kwargs: dict[str, Any]) -> list[Any]:
        """What each branch answers, those of one network in as few calls as memory allows."""
        outputs = []
        for _, group in itertools.groupby(branches, key=lambda branch: id(branch.network)):
            outputs += self._of_one_network(list(group), args, kwargs)
        return outputs

    def _of_one_network(self, branches: list[Branch], args: tuple, kwargs: dict[str, Any]) -> list[Any]:
        while True:
            size = self.guidance.branches_per_call if self._adapters.by_row else 1
            size = min(size, len(branches))
            parts = [branches[start : start + size] for start in range(0, len(branches), size)]
            try:
                return attempt(
                    lambda parts=parts: [out for part in parts for out in self._call(part, args, kwargs)]
                )
            except OutOfMemory:
                if size == 1:
                    raise
                self._take_fewer(size - 1)

    def _take_fewer(self, size: int) -> None:
        self.guidance.branches_per_call = size
        log.warning("out of memory: going on with %d guidance branches a call", size)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _call(self, branches: list[Branch], args: tuple, kwargs: dict[str, Any]) -> list[Any]:
        network, names = branches[0].network, [branch.adapter for branch in branches]
        if names == [None]:
            return [network(*args, **kwargs)]
        count = len(branches)
        rows = _rows(args, kwargs)
        arguments = tuple(_repeated(value, rows, count) for value in args)
        named = {k: v if k in SHARED else _repeated(v, rows, count) for k, v in kwargs.items()}
        with self._adapters.chosen(names):
            output = network(*arguments, **named)
        return [_replaced(output, part) for part in _tensor(output).chunk(count)]


class _Adapters:
    """Chooses among the adapters of one network: for each block of rows, or for all rows at once.

    For rows, a hook adds the adapter's product to its slice of what the layer answers without adapters. (peft's own
    mixed batches collect rows by index lists, which on a GPU makes every layer wait for a copy; here the rows of a
    branch lie together.) It does so for plain LoRA; other kinds of adapters (DoRA, LoKr) are switched whole.
    """

    def __init__(self, network: Any, names: Sequence[str]) -> None:
        self._network = network
        self._layers: list[Any] = [layer for layer in network.modules() if isinstance(layer, BaseTunerLayer)]
        self.resting = _active(self._layers)
        self.by_row = len(self.resting) <= 1 and all(
            _is_plain(layer, {*names, *self.resting}) for layer in self._layers
        )
        if names and not self.by_row:
            log.info("guidance calls the network once for each adapter: they are not plain LoRA, or stacked")

    @contextlib.contextmanager
    def chosen(self, names: Sequence[str | None]) -> Iterator[None]:
        """Answer with the adapter `names[i]` (None: the active one) on the i-th of equal blocks of rows."""
        if not self.by_row:
            with self._switched([name for name in names if name is not None]):
                yield
            return
        base = self.resting[0] if self.resting else None
        hook = functools.partial(_add_by_row, names=[base if name is None else name for name in names])
        with self._switched([]), contextlib.ExitStack() as hooks:
            for layer in self._layers:
                hooks.callback(layer.register_forward_hook(hook).remove)
            yield

    @contextlib.contextmanager
    def _switched(self, active: list[str]) -> Iterator[None]:
        if active == self.resting:
            yield
            return
        self._network.set_adapter(active)
        try:
            yield
        finally:
            self._network.set_adapter(self.resting)


def _active(layers: Sequence[BaseTunerLayer]) -> list[str]:
    names: dict[str, None] = {}
    for layer in layers:
        names.update(dict.fromkeys(layer.active_adapters))
    return list(names)


def _is_plain(layer: BaseTunerLayer, names: set[str]) -> bool:
    """Whether the layer is a linear or convolutional one, with matrices A and B alone for each of its adapters."""
    return isinstance(layer, LoraLayer) and not (
        layer.lora_variant.keys() & names or layer.lora_embedding_A.keys() & names
    )


def _add_by_row(layer: Any, args: tuple, output: Tensor, *, names: Sequence[str | None]) -> None:
    """Forward hook: add B A x, scaled, to the rows of each named adapter that the layer has."""
    x = args[0]
    if len(x) % len(names):
        raise TgoError(
            f"a layer with an adapter was given {len(x)} rows for {len(names)} guidance branches, so the rows cannot "
            "be distinguished: set `pipeline.guidance.branches_per_call = 1`."
        )
    rows = len(x) // len(names)
    for index, name in enumerate(names):
        if name in layer.lora_A:
            part = slice(index * rows, (index + 1) * rows)
            down, up = layer.lora_A[name], layer.lora_B[name]
            output[part] += (up(down(x[part].to(down.weight.dtype))) * layer.scaling[name]).to(output.dtype)


def _rows(args: tuple, kwargs: dict[str, Any]) -> int:
    """How many samples a call of a network is for: the first dimension of its first tensor."""
    return next(len(value) for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.ndim)


def _repeated(value: Any, rows: int, count: int) -> Any:
    """`count` copies of the rows of each tensor in `value`, one after the other; what has no rows is left."""
    if isinstance(value, Tensor):
        return torch.cat([value] * count) if value.ndim and len(value) == rows else value
    if isinstance(value, dict):
        return {key: _repeated(item, rows, count) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)([_repeated(item, rows, count) for item in value])
    return value


def _tensor(output: Any) -> Tensor:
    """What a network says: its result, the first of a tuple, or `sample` of the library's output class."""
    if isinstance(output, Tensor):
        return output
    return output[0]


def _replaced(output: Any, tensor: Tensor) -> Any:
    """A result of the same form with another tensor."""
    if isinstance(output, Tensor):
        return tensor
    if isinstance(output, tuple):
        return (tensor,)
    return type(output)(tensor)
