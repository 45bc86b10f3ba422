"""Preference as guidance: push a pipeline towards what is preferred at every step (PGD and cPGD, arXiv 2602.18799).

`guided_pipeline` makes one from any base and modules; `load_guided` from what `tgo.json` or `generate.guidance` says.
"""

from __future__ import annotations

import copy
import functools
import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators.adapters import adapter_file, attach, detach, network_name
from tgo_pipeline.generators.location import (
    described_guidance,
    description,
    locate,
    sampling_hints,
)
from tgo_pipeline.generators.pipelines import open_pipeline
from tgo_pipeline.params.checks import Precision
from tgo_pipeline.storage.digests import verify_folder
from tgo_pipeline.storage.fingerprints import content_fingerprint
from tgo_pipeline.storage.stores.inputs import local_path

if TYPE_CHECKING:
    import torch
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    from tgo_pipeline.generators.guided_network import Branch, Kind
    from tgo_pipeline.params import GuidanceParams

    Model = str | Path | DiffusionPipeline
    """A name as `load_pipeline` takes it, a folder, a file of an adapter, or a loaded pipeline."""


def guided_pipeline(
    base: Model,
    positive: Model,
    negative: Model | None = None,
    *,
    strength: float,
    kind: Kind | None = None,
    revision: str | None = None,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
) -> Any:
    """A pipeline of the base's class whose network is guided by preference, before classifier-free guidance.

    `pgd` (no `negative`): e = (1 - w) e_base + w e_positive; `cpgd`: e = e_base + w (e_positive - e_negative), with e
    the noise, the velocity or the logits of tokens. Strength 0 draws the base's images, bit for bit.
    `pipeline.guidance.strength` may be set between calls, `pipeline.guidance.branches_per_call` lowered to save memory.

    Modules that are adapters share the base's network; of others the network alone is loaded. `revision` pins the
    base's hub id, `device` and `precision` are for what is loaded here. Raises `TgoError` for modules that do not
    belong to the base.
    """
    from tgo_pipeline.generators.guided_network import Guidance, GuidedNetwork

    guidance = Guidance(_kind(kind, negative), strength)
    opened = base
    if isinstance(base, (str, Path)):
        _require_plain("base", str(base))
        opened = open_pipeline(str(base), revision, device, precision=precision)
    component = network_name(opened)
    if isinstance(getattr(opened, component), GuidedNetwork):
        raise _guided_already("base")
    modules = {"positive": positive} | ({} if negative is None else {"negative": negative})
    for named in (base, *modules.values()):
        if isinstance(named, (str, Path)):
            require_plain_prompts(str(named))
    for role, module in modules.items():
        if isinstance(base, (str, Path)) and isinstance(module, (str, Path)):
            require_base(role, module, str(base), revision)
    branches = [base_branch(opened), *_module_branches(modules, opened)]
    pipeline = copy.copy(opened)
    setattr(pipeline, component, GuidedNetwork(branches, guidance))
    pipeline.guidance = guidance  # type: ignore[attr-defined]
    pipeline.save_pretrained = functools.partial(_refuse_to_save, type(opened).__name__)  # type: ignore[method-assign]
    return pipeline


def require_plain_prompts(model: str) -> None:
    """Raise `TgoError` for a result that is drawn with words of its own: one prompt serves all guided networks."""
    if hints := sampling_hints(model):
        raise TgoError(
            f"{model} is sampled with a prompt of its own ({hints}), so it cannot be combined with a model that is "
            "not: guide by models tuned with another objective than csft."
        )


def _require_plain(role: str, model: str) -> None:
    """Raise `TgoError` for a folder that describes a guided model itself."""
    if described_guidance(model):
        raise _guided_already(role)


def _guided_already(role: str) -> TgoError:
    return TgoError(f"the {role} is guided already: name the model that its modules were trained from.")


def _kind(kind: Kind | None, negative: Model | None) -> Kind:
    if kind not in (None, "pgd", "cpgd"):
        raise TgoError(f"the kind of guidance is {kind!r}: it must be pgd or cpgd.")
    if kind == "pgd" and negative is not None:
        raise TgoError(
            "pgd goes from the base to the positive module: leave out the negative one, or take cpgd."
        )
    if kind == "cpgd" and negative is None:
        raise TgoError("cpgd is the difference of two modules: give a negative one, or take pgd.")
    return kind or ("pgd" if negative is None else "cpgd")


def _refuse_to_save(name: str, *_: Any, **__: Any) -> None:
    raise TgoError(
        f"a guided {name} is several networks, not one checkpoint: `tgo_pipeline.generators.merge.merge` makes one."
    )


def base_branch(pipeline: Any) -> Branch:
    """The pipeline's network as it is, with the adapters that are active on it."""
    from tgo_pipeline.generators.guided_network import Branch

    return Branch(getattr(pipeline, network_name(pipeline)))


def _module_branches(modules: Mapping[str, Model], pipeline: Any) -> list[Branch]:
    """The modules as branches; if one of them does not fit, the base is left as it was."""
    branches: list[Branch] = []
    try:
        for role, module in modules.items():
            branches.append(module_branch(role, module, pipeline))
    except TgoError:
        for name in [branch.adapter for branch in branches if branch.adapter]:
            detach(getattr(pipeline, network_name(pipeline)), name)
        raise
    return branches


def module_branch(role: str, module: Model, pipeline: Any) -> Branch:
    """A module as an adapter of the pipeline's network, or as a network of its own beside it."""
    from tgo_pipeline.generators.guided_network import Branch

    network = getattr(pipeline, network_name(pipeline))
    if isinstance(module, (str, Path)) and (file := adapter_file(module)):
        verify_folder(file.parent)
        name = _free_name(network, role)
        attach(pipeline, file, name)
        return Branch(network, name)
    other = _network_of(role, module, pipeline)
    if other is network:
        raise TgoError(f"the {role} module is the base itself, which it would not differ from.")
    return Branch(other)


def _free_name(network: Any, role: str) -> str:
    taken = getattr(network, "peft_config", {})
    names = itertools.chain([role], (f"{role}_{number}" for number in itertools.count(2)))
    return next(name for name in names if name not in taken)


def _network_of(role: str, module: Model, pipeline: Any) -> Any:
    """The network of another pipeline, nothing else of it. Raises `TgoError` unless it is like the base's."""
    from tgo_pipeline.generators.networks.held import precision_of

    component = network_name(pipeline)
    base = getattr(pipeline, component)
    if isinstance(module, (str, Path)):
        without = [name for name in _network_parts(pipeline) if name != component]
        _require_plain(f"{role} module", str(module))
        module = open_pipeline(str(module), None, base.device, without, precision_of(base.dtype))
    network: Any = getattr(module, component, None)
    if type(network) is not type(base) or shapes(network) != shapes(base):
        raise TgoError(
            f"the {role} module is a {type(module).__name__} with a {component} unlike that of the base "
            f"{type(pipeline).__name__}: guidance needs models tuned from one base."
        )
    return network if network.dtype == base.dtype else network.to(base.dtype)


def _network_parts(pipeline: Any) -> list[str]:
    import torch

    return [name for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)]


def shapes(network: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of a network's weights by name, adapters left out."""
    return {
        name.replace(".base_layer.", "."): tuple(weight.shape)
        for name, weight in network.state_dict().items()
        if ".lora_" not in name
    }


def require_base(role: str, module: str | Path, base: str, revision: str | None) -> None:
    """Raise `TgoError` if the module's `tgo.json` says that it is an adapter of another model than `base`."""
    tuned = description(local_path(module))
    theirs = (str(tuned.get("base")), tuned.get("revision"))
    if tuned.get("method") != "lora" or theirs == (base, revision) or _same(theirs, (base, revision)):
        return
    raise TgoError(
        f"the {role} module {module} is an adapter of {tuned.get('base')}, not of {base}: take that as the base."
    )


def _same(one: tuple[str, str | None], other: tuple[str, str | None]) -> bool:
    """Whether two names lead to the same complete pipeline; a base that is an adapter counts as what it is on."""
    places = [locate(*model) for model in (one, other)]
    if None in [place.folder for place in places]:
        return len({(place.hub_id, place.revision) for place in places}) == 1
    folders = {place.folder.resolve() for place in places if place.folder is not None}
    return len(folders) == 1 or len({content_fingerprint(folder) for folder in folders}) == 1


def load_guided(
    base: str,
    revision: str | None,
    guidance: GuidanceParams,
    device: torch.device | str = "cpu",
    precision: Precision = "fp32",
) -> Any:
    """`guided_pipeline` of parameters."""
    return guided_pipeline(
        base,
        guidance.positive,
        guidance.negative,
        strength=guidance.strength,
        kind=guidance.kind,
        revision=revision,
        device=device,
        precision=precision,
    )
