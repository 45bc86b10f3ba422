"""Weights of a fine-tuned Qwen2-VL in the layouts that the official code writes, and the networks here.

    visual.*, model.*, lm_head.weight, rm_head.*                the bare class
    base_model.model.… with .base_layer., .lora_A., .lora_B.    the class wrapped by peft, as VideoReward is released
    adapter_model.safetensors, non_lora_state_dict.pth          adapters, what else was trained; the rest is the base's

Adapters are added in with float32: W = base + alpha / rank · B A.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub.checkpoint import load_weights, read_weights
from tgo_pipeline.rewards.files.layouts import BASE_WEIGHTS, TRAINED, Files

EMBEDDING = "model.embed_tokens.weight"
HEAD = "rm_head."
_UNUSED = "lm_head.weight"
"""Predicts words, which no score needs."""
_OFFICIAL = {"network.visual.": "visual.", "network.language.": "model.", "head.": HEAD}
_PATCHES, _PATCH_SHAPE = "visual.patch_embed.proj.weight", (3, 2, 14, 14)
_A, _B = ".lora_A.default.weight", ".lora_B.default.weight"
_SAVED_ALONE = re.compile(r"(\.lora_[AB])\.weight$")
"""How peft names adapters that it saves by themselves."""


@dataclass(frozen=True)
class Lora:
    """How much of an adapter is added in, as its training stated it."""

    alpha: float
    rank: int


def read_state(files: Files, rows: int, lora: Lora | None = None) -> dict[str, Tensor]:
    """The tensors of a checkpoint by the names of the bare class, with adapters added in.

    Of a base model's embedding the first `rows` are taken, as many as the tokenizer has tokens. Raises `TgoError` if an
    adapter is not whole, or there are adapters and no `lora`, or one of another rank.
    """
    path = files.weights
    state = read_weights(path)
    if TRAINED in files.companions:
        base = read_weights(files.path(BASE_WEIGHTS))
        base[EMBEDDING] = base.get(EMBEDDING, torch.empty(0))[:rows]
        adapters = {_SAVED_ALONE.sub(r"\1.default.weight", name): value for name, value in state.items()}
        state = base | read_weights(files.path(TRAINED)) | adapters
    state.pop(_UNUSED, None)
    for name, up, down in _adapters(state, path):
        if lora is None or len(down) != lora.rank:
            stated = "no adapter" if lora is None else f"rank {lora.rank}"
            raise TgoError(
                f"{path} holds adapters of rank {len(down)}, its configuration states {stated}: the two belong to "
                "different models."
            )
        state[name] = state[name].float() + lora.alpha / lora.rank * (up.float() @ down.float())
    return state


def _adapters(state: dict[str, Tensor], path: Path) -> list[tuple[str, Tensor, Tensor]]:
    """Take the adapters out of a state: the weight that each belongs to, B and A."""
    names = {name.removesuffix(end) for name in state for end in (_A, _B) if name.endswith(end)}
    for name in sorted(names):
        if lost := [part for part in (f"{name}{_A}", f"{name}{_B}", f"{name}.weight") if part not in state]:
            raise TgoError(f"{path} holds an adapter of {name} and lacks {lost[0]}: download it again.")
    return [(f"{name}.weight", state.pop(name + _B), state.pop(name + _A)) for name in sorted(names)]


def official_state_dict(reward: nn.Module) -> dict[str, Tensor]:
    """The tensors of a reward, whose parts are `network` and `head`, by the names of the bare official class."""
    return dict(_official(reward.state_dict()))


def _official(state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    for name, value in state.items():
        prefix = next(each for each in _OFFICIAL if name.startswith(each))
        official = _OFFICIAL[prefix] + name.removeprefix(prefix)
        yield official, value.unflatten(1, _PATCH_SHAPE) if official == _PATCHES else value


def load_state(reward: nn.Module, state: Mapping[str, Tensor], path: Path) -> None:
    """Give a reward exactly these tensors. Raises `TgoError` that names missing, unknown or misshapen ones."""
    load_weights(cast(nn.Module, _Official(reward)), state, path)


class _Official:
    """A reward under official names, so that what does not fit is called what it is called in the file."""

    def __init__(self, reward: nn.Module) -> None:
        self._reward = reward

    def state_dict(self) -> dict[str, Tensor]:
        return official_state_dict(self._reward)

    def load_state_dict(self, state: Mapping[str, Tensor], assign: bool) -> Any:
        own = self._reward.state_dict()
        values = zip(own, official_state_dict(self._reward), strict=True)
        named = {name: state[official].reshape(own[name].shape) for name, official in values}
        return self._reward.load_state_dict(named, assign=assign)
