"""Reward models: official checkpoints, equal to the official code, in one interface.

    load_reward("hpsv2.1").score(images, prompts)     # float32 (N,), in the reward's own units
    score_all({"hps": load_reward("hpsv2.1"), "clip": load_reward("clip")}, images, prompts)

Names, variants and specs: `specs.py`. Files, and where they come from: `layouts.py`. Your own: `custom.py`.
Importing this package imports no torch.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.plugins.kinds import REWARD
from tgo_pipeline.rewards import specs
from tgo_pipeline.rewards.isolated.names import is_isolated
from tgo_pipeline.rewards.specs import REWARDS, Spec

if TYPE_CHECKING:
    from pathlib import Path

    import torch

    from tgo_pipeline.rewards.base import Reward
    from tgo_pipeline.rewards.engine.scorer import score_all

__all__ = ["REWARDS", "Spec", "fingerprint", "load_reward", "require", "resolve_precision", "score_all"]

DTYPES = ("auto", "fp32", "fp16", "bf16")
_TORCH_NAMES = {"torch.float32": "fp32", "torch.float16": "fp16", "torch.bfloat16": "bf16", "None": "auto"}


def load_reward(
    name_or_spec: str | Spec,
    source: str | None = None,
    device: str | torch.device = "cpu",
    dtype: str | torch.dtype | None = None,
    compile: bool = False,
) -> Reward:
    """Load a reward for scoring: frozen, on `device`.

    `name_or_spec` is a name (`hpsv2.1`, `clip`, ...), `module:object`, `official:...` or `worker:...` for a reward in
    an interpreter of its own (docs/WORKERS.md), or `REWARD=SOURCE`. `source` is `demo`, a local folder, the official
    weight file, a hub repository `org/name@revision`, or `official:...`; without one the official files are taken from
    the model hub, or from its cache. `dtype` is fp32, fp16, or auto: fp16 on a GPU (bf16 for vision-language models),
    else fp32.
    `compile` runs the networks through `torch.compile`. Raises `TgoError` for an unknown name, missing or damaged
    files, and weights that do not fit their configuration.
    """
    from tgo_pipeline.rewards.base import NetworkReward

    spec = _spec(name_or_spec, source)
    place = _device(device)
    name = specs.canonical(spec.reward)
    if is_isolated(name):
        from tgo_pipeline.rewards.isolated.reward import load

        return load(spec, place)
    precision = resolve_precision(dtype, place, _half(name))
    if name not in REWARDS:
        reward, identity = _load_custom(spec, name, place)
    else:
        reward, identity = _load(spec, name, precision, place)
    reward = reward.requires_grad_(False).eval().to(place)
    if isinstance(reward, NetworkReward):
        identity["dtype"] = reward.set_precision(precision).precision
        if compile:
            reward.compile_towers()
    reward.identity = identity
    return reward


def fingerprint(name_or_spec: str | Spec, source: str | None = None) -> str:
    """What the scores of a reward depend on besides the sample, without loading or downloading anything."""
    from tgo_pipeline.rewards.files import layouts

    spec = _spec(name_or_spec, source)
    name = specs.canonical(spec.reward)
    if name in REWARDS:
        return layouts.fingerprint(name, spec.source)
    if is_isolated(name):
        from tgo_pipeline.rewards.isolated.reward import fingerprint as isolated_fingerprint

        return isolated_fingerprint(spec)
    from tgo_pipeline.rewards.custom_identity import custom_fingerprint

    return custom_fingerprint(REWARD.reference(name), spec.source)


def require(name_or_spec: str | Spec, source: str | None = None) -> list[Path]:
    """See that a reward can be had: its files, which are downloaded if need be, or its code.

    Returns its weight files, none for a reward of your own. Raises `TgoError` if anything is missing or damaged.
    """
    from tgo_pipeline.rewards.files import layouts

    spec = _spec(name_or_spec, source)
    name = specs.canonical(spec.reward)
    if name in REWARDS:
        return layouts.locate(name, spec.source).weight_files()
    if is_isolated(name):
        from tgo_pipeline.rewards.isolated.reward import require as require_isolated

        return require_isolated(spec)
    REWARD.find(name)
    return []


def _load(spec: Spec, name: str, precision: str, device: torch.device) -> tuple[Reward, dict[str, str]]:
    from tgo_pipeline.hub import cache
    from tgo_pipeline.rewards.files import layouts

    files = layouts.locate(name, spec.source)
    layout = layouts.LAYOUTS[name]
    identity = {"reward": name, "version": str(layout.version), "source": files.source}
    build = REWARD.find(name)
    if layout.described:
        return build.of_source(spec.source, device), identity
    if not layout.weights:
        return build(), identity
    identity["sha256"] = layouts.digest(files.weights)
    converted = cache.as_safetensors(files.weights)
    with cache.named_as(files.weights, converted):
        return build.load(name, dataclasses.replace(files, weights=converted), precision), identity


def _load_custom(spec: Spec, name: str, device: torch.device) -> tuple[Reward, dict[str, str]]:
    from tgo_pipeline.rewards.custom import load_custom

    reward = load_custom(spec.column, REWARD.reference(name), spec.source, device, specs.parts(name))
    identity = {
        "reward": spec.reward,
        "version": fingerprint(spec),
        "source": spec.source or REWARD.reference(name),
    }
    return reward, identity


def _spec(name_or_spec: str | Spec, source: str | None) -> Spec:
    spec = specs.parse(name_or_spec) if isinstance(name_or_spec, str) else name_or_spec
    if source is None:
        return spec
    if spec.source is not None:
        raise TgoError(f"{spec} names a source already: leave out {source!r}, or the one in the spec.")
    return specs.with_source(spec, source)


def resolve_precision(dtype: str | torch.dtype | None, device: torch.device, half: str = "fp16") -> str:
    """What `dtype` means on a device: auto (or None) is `half` on a GPU, else fp32. Raises `TgoError` for others."""
    name = _TORCH_NAMES.get(str(dtype), str(dtype))
    if name not in DTYPES:
        raise TgoError(f"dtype is {dtype!r}: it must be one of auto, fp32, fp16.")
    if name == "auto":
        return half if device.type == "cuda" else "fp32"
    return name


def _half(name: str) -> str:
    """What half precision is for a reward."""
    return getattr(REWARD.find(name), "half_precision", "fp16") if name in REWARDS else "fp16"


def _device(device: str | torch.device) -> torch.device:
    from tgo_pipeline.devices import resolve_device

    return resolve_device(device) if isinstance(device, str) else device


def __getattr__(name: str) -> Any:
    """`score_all` on demand: it needs torch."""
    if name == "score_all":
        from tgo_pipeline.rewards.engine.scorer import score_all

        return score_all
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
