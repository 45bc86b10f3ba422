"""Where a model's parts are, whether they are complete, and the fingerprint of their content; nothing is loaded."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators.adapters import PEFT_WEIGHTS, adapter_file
from tgo_pipeline.generators.networks.adapter_files import PEFT_CONFIG
from tgo_pipeline.generators.networks.clip_prompts import TOKENIZER
from tgo_pipeline.hub import weight_files
from tgo_pipeline.hub.json_files import read_json
from tgo_pipeline.storage.fingerprints import content_fingerprint, fingerprint
from tgo_pipeline.storage.stores.inputs import local_path

if TYPE_CHECKING:
    from tgo_pipeline.params import GuidanceParams

INDEX, TUNED = "model_index.json", "tgo.json"
LAYOUT = (
    f"A pipeline folder holds {INDEX} and one subfolder for each component that it names (for Stable Diffusion "
    "unet, vae, text_encoder, tokenizer, scheduler), as `DiffusionPipeline.save_pretrained` writes them."
)
DEMOS = {"demo": "diffusion", "demo-masked": "masked", "demo-video": "video"}
"""Models that ship with the package, and their folders among the small world's weights."""
MEISSONIC = ("MeissonicPipeline", "Pipeline")
"""Class names in a Meissonic model's index: what is written here, and what the published folders have."""
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class Location:
    """Where a model's parts are: a complete pipeline (`folder` or `hub_id`), and perhaps an adapter on top."""

    folder: Path | None = None
    hub_id: str | None = None
    revision: str | None = None
    adapter: Path | None = None

    def __str__(self) -> str:
        return str(self.folder or self.hub_id)


def model_fingerprint(model: str, revision: str | None = None) -> str:
    """What a model's numbers depend on, without loading it: the content of local files, the name of a hub revision."""

    if described := described_guidance(model):
        return guided_fingerprint(*described)
    location = locate(model, revision)
    if location.folder is not None:
        base = content_fingerprint(location.folder)
    else:
        base = fingerprint(hub_id=location.hub_id, revision=location.revision)
    if location.adapter is None:
        return base
    return fingerprint(base=base, adapter=content_fingerprint(location.adapter))


def locate(model: str, revision: str | None = None) -> Location:
    """Find a model's parts and check that a local one is complete. Raises `TgoError` that says what is missing."""
    if model in DEMOS:
        from tgo_pipeline import demo

        return Location(folder=_complete(demo.weights_path(DEMOS[model])))
    folder = local_path(model)
    if not folder.is_dir():
        return _locate_on_hub(model, revision)
    tuned = description(folder)
    if tuned.get("method") != "lora":
        return Location(folder=_complete(folder))
    base = locate(_base(tuned, folder), tuned.get("revision"))
    if base.adapter is not None:
        raise TgoError(
            f"{folder} is an adapter on {tuned['base']}, which is an adapter itself: only an adapter on a complete "
            "pipeline can be loaded. Fuse the first one (`pipeline.fuse_lora()`, `save_pretrained`) and tune that."
        )
    return Location(base.folder, base.hub_id, base.revision, adapter=folder)


def _locate_on_hub(model: str, revision: str | None) -> Location:
    if not _HUB_ID.fullmatch(model):
        raise TgoError(f"model is {model!r}, and there is no such folder. {LAYOUT}")
    return Location(hub_id=model, revision=revision)


def description(folder: Path) -> dict[str, Any]:
    """What the folder's `tgo.json` says; empty without one. Raises `TgoError` if it cannot be read."""
    path = folder / TUNED
    return read_json(path) if path.is_file() else {}


def sampling_hints(model: str) -> dict[str, str]:
    """How a tuned model wants to be sampled (`prompt_prefix`, `negative_prompt`); empty for any other model."""
    if model in DEMOS:
        return {}
    folder = local_path(model)
    hints = description(folder).get("sampling") or {}
    if not isinstance(hints, dict) or not all(isinstance(text, str) for text in hints.values()):
        raise TgoError(f"{folder / TUNED}: sampling is {hints!r}, not names and texts: run fine_tune again.")
    return hints


def _base(tuned: dict[str, Any], folder: Path) -> str:
    base = tuned.get("base")
    if not isinstance(base, str):
        raise TgoError(
            f"{folder / TUNED} does not name the `base` that the adapter belongs to: write it there."
        )
    return base


def _complete(folder: Path) -> Path:
    if not (folder / INDEX).is_file():
        raise TgoError(f"{folder} has no {INDEX}, so it is not a pipeline folder. {LAYOUT}")
    lacking = [name for name in components(read_index(folder)) if not (folder / name).is_dir()]
    if missing := [name for name in lacking if name != "safety_checker"]:
        raise TgoError(f"{folder} lacks the subfolders {', '.join(missing)} that its {INDEX} names. {LAYOUT}")
    return folder


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a pipeline folder. Raises `TgoError` that names the key which does not say what it should."""
    index = read_json(folder / INDEX)
    for name, part in index.items():
        if (folder / name).is_dir() and part not in ([None, None], False) and not _is_component(part):
            raise TgoError(
                f"{folder / INDEX}: {name} is {part!r}, not a library and a class such as ['diffusers', "
                "'AutoencoderKL']: copy the model again."
            )
    return index


def check_index(index: Mapping[str, Any], place: str) -> None:
    """Raise `TgoError` unless an index names the class of its pipeline, or for a Wan that cannot be used here."""
    kind = index.get("_class_name")
    if not isinstance(kind, str):
        raise TgoError(f"{place}: _class_name is {kind!r}, not the name of a pipeline's class. {LAYOUT}")
    if kind.startswith("Wan") and (reason := _unfit_wan(kind, index)):
        raise TgoError(
            f"{place}: {reason}. Of Wan, only the text-to-video models of 2.1 can be sampled and tuned here."
        )


def _unfit_wan(kind: str, index: Mapping[str, Any]) -> str | None:
    """Why a model of Wan is none of 2.1 that makes clips of prompts."""
    if kind == "WanImageToVideoPipeline":
        return "the model makes videos of images, and there is a prompt alone"
    if "transformer_2" in components(index) or index.get("boundary_ratio") is not None:
        return "the model has two experts, one for each range of noise (Wan 2.2), and one network is tuned"
    if index.get("expand_timesteps"):
        return "the model is told a timestep for each token (Wan 2.2, 5B), and one for each clip is drawn"
    return None


def is_meissonic(index: Mapping[str, Any]) -> bool:
    """Whether the index is that of a Meissonic model, published or written here."""
    return index.get("_class_name") in MEISSONIC and "vqvae" in index


def components(index: Mapping[str, Any]) -> dict[str, str]:
    """The parts that an index names, and their classes."""
    return {name: part[1] for name, part in index.items() if _is_component(part)}


def reads_as_clip(model: str, revision: str | None = None) -> bool:
    """Whether a model reads prompts with CLIP's tokenizer. Of one on the hub, whose index need not be here, it is
    taken for granted.
    """
    if described := described_guidance(model):
        return reads_as_clip(*described[:2])
    folder = locate(model, revision).folder
    return folder is None or TOKENIZER in components(read_index(folder)).values()


def _is_component(part: Any) -> bool:
    return isinstance(part, list) and len(part) == 2 and all(isinstance(each, str) for each in part)


def described_guidance(model: str) -> tuple[str, str | None, GuidanceParams] | None:
    """Base, its revision and guidance of a result whose `tgo.json` has `method: guidance`; None for any other model.

    Module folders are relative to the result's.
    """
    from tgo_pipeline.params import GuidanceParams, parse

    folder = local_path(model)
    tuned = {} if model in DEMOS else description(folder)
    if tuned.get("method") != "guidance":
        return None
    modules = {role: tuned.get(role) for role in ("positive", "negative")}
    places = {role: str(folder / place) for role, place in modules.items() if place is not None}
    missing = [place for place in places.values() if not Path(place).exists()]
    if missing or "base" not in tuned:
        raise TgoError(
            f"{folder} lacks {missing[0] if missing else 'the name of its base'}: run fine_tune again."
        )
    settings = {"kind": tuned.get("kind"), "strength": tuned.get("strength"), **places}
    return tuned["base"], tuned.get("revision"), parse(GuidanceParams, settings, f"{folder / TUNED}: ")


def guided_fingerprint(base: str, revision: str | None, guidance: GuidanceParams) -> str:
    """What the numbers of a guided model depend on: its base, its modules, how they are combined; loads nothing."""
    modules = [module_fingerprint(module) for module in (guidance.positive, guidance.negative) if module]
    return fingerprint(
        base=model_fingerprint(base, revision),
        kind=guidance.kind,
        strength=guidance.strength,
        modules=modules,
    )


def module_fingerprint(module: str) -> str:
    """The content of an adapter's file, which belongs to no base by itself, or of a model."""
    file = adapter_file(module)
    if file is None:
        return model_fingerprint(module)
    scale = file.with_name(PEFT_CONFIG)
    if file.name == PEFT_WEIGHTS and scale.is_file():
        return fingerprint(weights=content_fingerprint(file), scale=content_fingerprint(scale))
    if _has_alphas(file):  # which earlier versions read otherwise
        return fingerprint(weights=content_fingerprint(file), alphas=1)
    return content_fingerprint(file)


def _has_alphas(file: Path) -> bool:
    try:
        return any(name.endswith(".alpha") for name in weight_files.shapes(file))
    except TgoError:  # damaged, as whoever loads it says
        return False
