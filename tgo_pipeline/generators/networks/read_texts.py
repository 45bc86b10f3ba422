"""Text encoders that have read their prompts, and wait in host memory while the network in training has the device.

T5 alone can take as much of a GPU as the network that is trained beside it, and of the images that are drawn on the
way the prompts are always the same. Their encoders read them once, before the network goes to the device.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils._pytree import tree_flatten, tree_map_only

from tgo_pipeline.generators.networks.finite import TEXT_ENCODERS


class ReadText(nn.Module):
    """Stands for a text encoder in its pipeline; remembers its answers, and gives them on the pipeline's device.

    The encoder is none of its submodules: it stays where it is when the pipeline goes to a device.
    """

    def __init__(self, encoder: nn.Module, device: torch.device) -> None:
        super().__init__()
        self.__dict__.update(encoder=encoder, device=device, reads=False)
        self._answers: dict[Any, Any] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.__dict__["encoder"], name)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The encoder's answer: computed on the device while it `reads`, later where the encoder waits."""
        key = _key((args, kwargs))
        if key not in self._answers:
            self._answers[key] = _on(torch.device("cpu"), self._answer(*args, **kwargs))
        return _on(self.device, self._answers[key], copy=True)

    def _answer(self, *args: Any, **kwargs: Any) -> Any:
        own = dict([*self.encoder.named_parameters(), *self.encoder.named_buffers()])
        device = self.device if self.reads else self.encoder.device
        return functional_call(
            self.encoder,
            {name: tensor.to(device) for name, tensor in own.items()},
            _on(device, args),
            _on(device, kwargs),
        )


def put_aside(pipeline: Any, device: torch.device) -> None:
    """Let the text encoders of a pipeline on the CPU wait there, whatever device the pipeline goes to."""
    for name in TEXT_ENCODERS:
        if (encoder := getattr(pipeline, name, None)) is not None:
            setattr(pipeline, name, ReadText(encoder, device))


@contextlib.contextmanager
def reading(pipeline: Any, network: nn.Module) -> Iterator[None]:
    """While it lasts, drawing ends where `network` is first asked, by `Read`, and prompts are read on the device."""
    encoders = [part for part in pipeline.components.values() if isinstance(part, ReadText)]
    hook = network.register_forward_pre_hook(_stop)
    for encoder in encoders:
        encoder.__dict__["reads"] = True
    try:
        yield
    finally:
        hook.remove()
        for encoder in encoders:
            encoder.__dict__["reads"] = False


class Read(Exception):
    """The prompts of a batch have been read."""


def _stop(*_: Any) -> None:
    raise Read


def _key(call: Any) -> Any:
    """What tells a call from another: the numbers and shapes of its tensors, and everything else by its text."""
    leaves, structure = tree_flatten(call)
    return (str(structure), *(_content(leaf) for leaf in leaves))


def _content(leaf: Any) -> Any:
    return (tuple(leaf.shape), leaf.cpu().numpy().tobytes()) if isinstance(leaf, Tensor) else repr(leaf)


def _on(device: torch.device, values: Any, *, copy: bool = False) -> Any:
    return tree_map_only(Tensor, lambda tensor: tensor.to(device, copy=copy), values)
