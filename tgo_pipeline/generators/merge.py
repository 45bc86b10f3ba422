"""PGD-merge: preference guidance of a fixed strength as one ordinary checkpoint or adapter (arXiv 2602.18799).

To first order in the weights' difference d, e(theta + w d) = e(theta) + w J d, which is what guidance adds up; the
error grows with w^2 |d|^2. It costs nothing at sampling time, and its strength can no longer be changed.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators.adapters import detach, fuse, network_name, read_adapter, write_adapter
from tgo_pipeline.generators.guidance import guided_pipeline
from tgo_pipeline.generators.location import TUNED, description
from tgo_pipeline.generators.networks.notes import quiet
from tgo_pipeline.storage.reproducible import make_reproducible
from tgo_pipeline.storage.writing import atomic_folder

if TYPE_CHECKING:
    from torch import Tensor

    from tgo_pipeline.generators.guidance import Model
    from tgo_pipeline.generators.guided_network import GuidedNetwork

DOWN, UP = ".lora_A.weight", ".lora_B.weight"


class Term(NamedTuple):
    """One adapter of the merge: its tensors, what its layers multiply their product by, and its weight in the sum."""

    tensors: Mapping[str, Tensor]
    scales: Mapping[str, float]
    coefficient: float


def merge(
    base: Model,
    positive: Model,
    negative: Model | None = None,
    *,
    strength: float,
    output: str | Path,
    revision: str | None = None,
) -> Path:
    """Write theta + w (theta_positive - theta) or theta + w (theta_positive - theta_negative) to the folder `output`.

    If all modules are adapters, so is the result: the matrices scaled by w, or the ranks of the two side by side.
    Otherwise it is a whole pipeline folder. `diffusers` loads either as any other. Returns `output`.
    Raises `TgoError` for modules that do not belong to the base, or if `output` is there and not empty.
    """
    output = Path(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise TgoError(f"{output} exists: name a folder that does not, or is empty.")
    guided = guided_pipeline(base, positive, negative, strength=strength, revision=revision)
    network: GuidedNetwork = getattr(guided, network_name(guided))
    pipeline = _unguided(guided, network)
    described = {
        "base": str(base) if isinstance(base, (str, Path)) else pipeline.config.get("_name_or_path"),
        "revision": revision,
        "objective": f"{network.guidance.kind}-merge",
        "strength": network.guidance.strength,
    }
    try:
        with quiet(), atomic_folder(output) as temporary:
            if all(branch.adapter for branch in network.branches[1:]):
                described |= {"method": "lora", **_underlying(base)}
                _write_adapter(temporary, pipeline, network)
            else:
                described |= {"method": "full"}
                _write_pipeline(temporary, pipeline, network, keep=not isinstance(base, (str, Path)))
            make_reproducible(temporary)
            (temporary / TUNED).write_text(json.dumps(described, indent=2) + "\n")
    finally:
        for name in [branch.adapter for branch in network.branches if branch.adapter]:
            detach(network.base, name)  # the base may be a pipeline of the caller's
    return output


def _unguided(guided: Any, network: GuidedNetwork) -> Any:
    pipeline = copy.copy(guided)
    setattr(pipeline, network_name(guided), network.base)
    del pipeline.save_pretrained, pipeline.guidance
    return pipeline


def _underlying(base: Model) -> dict[str, Any]:
    """Base and revision of a base that is an adapter itself: the result contains that adapter."""
    tuned = description(Path(base).expanduser()) if isinstance(base, (str, Path)) else {}
    if tuned.get("method") != "lora":
        return {}
    return {name: tuned.get(name) for name in ("base", "revision")}


def _write_adapter(folder: Path, pipeline: Any, network: GuidedNetwork) -> None:
    if tuned := [n for n, part in pipeline.components.items() if _has_adapter_of_text(n, part)]:
        raise TgoError(
            f"the base has an adapter on its {tuned[0]}, which a merged adapter cannot hold: fuse it into the base "
            "first (`pipeline.fuse_lora()`, `save_pretrained`)."
        )
    coefficients = network.guidance.coefficients()
    names = [(name, coefficients[0]) for name in network.resting]
    names += [
        (branch.adapter, c)
        for branch, c in zip(network.branches[1:], coefficients[1:], strict=True)
        if branch.adapter
    ]
    adapters = [read_adapter(network.base, name) for name, _ in names]
    terms = [Term(tensors, scales, c) for (tensors, scales, _), (_, c) in zip(adapters, names, strict=True)]
    config = adapters[0][2] if len(terms) == 1 else None
    write_adapter(folder, pipeline, combine(terms), config)


def _has_adapter_of_text(name: str, part: Any) -> bool:
    return name.startswith("text_encoder") and bool(getattr(part, "peft_config", None))


def combine(terms: Sequence[Term]) -> dict[str, Tensor]:
    """The adapter whose product is the weighted sum of the terms' products: ranks one after the other.

    One term keeps its ranks and its scale; of several, the scales are in the result, which is for alpha = rank.
    Raises `TgoError` for adapters that are not a product of two matrices.
    """
    import torch

    for name in {name for term in terms for name in term.tensors}:
        if not name.endswith((DOWN, UP)):
            raise TgoError(f"an adapter with {name} is not a plain LoRA, and cannot be merged into one.")
    if len(terms) == 1:
        (term,) = terms
        return {n: term.coefficient * t if n.endswith(UP) else t for n, t in term.tensors.items()}
    merged = {}
    for module in dict.fromkeys(
        name.removesuffix(DOWN) for term in terms for name in term.tensors if DOWN in name
    ):
        having = [term for term in terms if module + DOWN in term.tensors]
        ups = [term.coefficient * term.scales[module] * term.tensors[module + UP] for term in having]
        merged[module + DOWN] = torch.cat([term.tensors[module + DOWN] for term in having], dim=0)
        merged[module + UP] = torch.cat(ups, dim=1)
    return merged


def _write_pipeline(folder: Path, pipeline: Any, network: GuidedNetwork, *, keep: bool) -> None:
    modules = [_plain(branch.network, branch.adapter).state_dict() for branch in network.branches[1:]]
    result = _plain(network.base, None)
    if keep and result is network.base:
        result = copy.deepcopy(result)
    weights = result.state_dict()
    for name, weight in weights.items():
        if weight.is_floating_point():
            weight.copy_(_moved(weight, [module[name] for module in modules], network.guidance.strength))
    for name, part in pipeline.components.items():
        setattr(pipeline, name, _plain(part, None))
    setattr(pipeline, network_name(pipeline), result)
    pipeline.save_pretrained(folder)


def _plain(network: Any, adapter: str | None) -> Any:
    """The network with an adapter (None: its active ones) made part of its weights; itself if it has none."""
    if not getattr(network, "peft_config", None):
        return network
    fused = copy.deepcopy(network)
    if adapter is not None:
        fused.set_adapter([adapter])
    fuse(fused)
    return fused


def _moved(base: Tensor, modules: Sequence[Tensor], strength: float) -> Tensor:
    """One weight moved from the base towards the positive one, or along the difference of the two."""
    if len(modules) == 1:
        return base.lerp(modules[0], strength)  # exact at 0 and at 1
    return base + strength * (modules[0] - modules[1])
