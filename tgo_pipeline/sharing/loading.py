"""How a result is loaded, as lines of Python: a pipeline, an adapter on its base, or modules that guide."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgo_pipeline.params import EMBEDDED

INDEX, PACKAGE = "model_index.json", "tgo-pipeline"
WRITTEN = ("from diffusers.utils import export_to_video", "", 'export_to_video(frames, "clip.mp4", fps=16)')
PROMPT = "a photo of a fox in the snow"


@dataclass(frozen=True)
class Loading:
    """The lines that load a result and draw with it; `needs` is a package besides diffusers."""

    lines: list[str]
    needs: str | None = None


@dataclass(frozen=True)
class ResultSource:
    """Where a result is loaded from: a name of the hub, or a folder."""

    name: str
    on_hub: bool


def loading(
    description: Mapping[str, Any],
    model: Path,
    place: ResultSource,
    draw: Mapping[str, Any],
    prompt: str = PROMPT,
    clips: bool = False,
) -> Loading:
    """Lines for the result in `model`, loaded from `place`; `draw` are arguments of a call with `prompt`.

    Of a model that draws `clips` the lines give a list of frames, and write it.
    """
    loaded = _loaded(description, model, place)
    call = _call(prompt, {**draw, **description.get("sampling", {})})
    drawn = [f"frames = {call}.frames[0]", *WRITTEN] if clips else [f"image = {call}.images[0]"]
    return Loading([*loaded.lines, *drawn], loaded.needs)


def _loaded(description: Mapping[str, Any], model: Path, place: ResultSource) -> Loading:
    method = description.get("method")
    if method == "guidance":
        strength = "pipeline.guidance.strength = 1.0  # 0 is the base model"
        return Loading([*_by_this_package(place), strength], PACKAGE)
    return _adapter(description, model, place) if method == "lora" else _pipeline(model, place.name)


def _pipeline(model: Path, name: str) -> Loading:
    if _is_meissonic(model):
        lines = [
            "from tgo_pipeline.generators.meissonic import MeissonicPipeline",
            "",
            f"pipeline = MeissonicPipeline.from_pretrained({_quoted(name)})",
        ]
        return Loading(lines, PACKAGE)
    lines = [
        "from diffusers import DiffusionPipeline",
        "",
        f"pipeline = DiffusionPipeline.from_pretrained({_quoted(name)})",
    ]
    return Loading(lines)


def _adapter(description: Mapping[str, Any], model: Path, place: ResultSource) -> Loading:
    base, revision = str(description.get("base")), description.get("revision")
    if base in EMBEDDED or not _is_pipeline_adapter(model):
        return Loading(_by_this_package(place), PACKAGE)
    pinned = f", revision={_quoted(str(revision))}" if revision else ""
    lines = [
        "from diffusers import DiffusionPipeline",
        "",
        f"pipeline = DiffusionPipeline.from_pretrained({_quoted(_shown(base))}{pinned})",
        f"pipeline.load_lora_weights({_quoted(place.name)})",
    ]
    return Loading(lines)


def _by_this_package(place: ResultSource) -> list[str]:
    """This package's loader reads folders: what is on the hub is downloaded first."""
    if not place.on_hub:
        return [
            "from tgo_pipeline.generators import load_pipeline",
            "",
            f"pipeline = load_pipeline({_quoted(place.name)})",
        ]
    return [
        "from huggingface_hub import snapshot_download",
        "from tgo_pipeline.generators import load_pipeline",
        "",
        f"pipeline = load_pipeline(snapshot_download({_quoted(place.name)}))",
    ]


def _call(prompt: str, draw: Mapping[str, Any]) -> str:
    prompt = f"{draw.get('prompt_prefix', '')}{prompt}"
    options = {key: value for key, value in draw.items() if key != "prompt_prefix"}
    arguments = [_quoted(prompt), *(f"{key}={_quoted(value)}" for key, value in options.items())]
    return f"pipeline({', '.join(arguments)})"


def _quoted(value: Any) -> str:
    """A text or number as Python, which is its JSON."""
    return json.dumps(value, ensure_ascii=False)


def _shown(base: str) -> str:
    folder = Path(base).expanduser()
    return folder.name if folder.is_dir() else base


def _is_pipeline_adapter(model: Path) -> bool:
    """Whether the adapter's keys name the part of the pipeline that they belong to, as `load_lora_weights` wants it."""
    from safetensors import safe_open

    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, "np") as stream:
            return all(key.startswith(("unet.", "transformer.")) for key in stream.keys())  # noqa: SIM118
    return False


def _is_meissonic(model: Path) -> bool:
    from tgo_pipeline.generators.location import is_meissonic

    return is_meissonic(index_of(model))


def index_of(model: Path) -> dict[str, Any]:
    """The `model_index.json` of a pipeline folder; empty if it is none."""
    from tgo_pipeline.generators.location import read_index

    return read_index(model) if (model / INDEX).is_file() else {}
