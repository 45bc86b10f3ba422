"""How a result is loaded, as lines of Python: a pipeline, an adapter on its base, or modules that guide."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tgo_pipeline.params import EMBEDDED

INDEX = "model_index.json"
PROMPT = "a photo of a fox in the snow"


@dataclass(frozen=True)
class Loading:
    """The lines that load a result and draw with it; `needs` is a package besides diffusers."""

    lines: list[str]
    needs: str | None = None


def loading(description: Mapping[str, Any], model: Path, name: str, draw: Mapping[str, Any]) -> Loading:
    """Lines for the result in `model` under the name that it is loaded by; `draw` are arguments of a call."""
    method = description.get("method")
    if method == "guidance":
        return _guided(name, draw)
    if method == "lora":
        return _adapter(description, model, name, _with_hints(description, draw))
    return _pipeline(model, name, _with_hints(description, draw))


def _pipeline(model: Path, name: str, draw: Mapping[str, Any]) -> Loading:
    if _is_meissonic(model):
        lines = [
            "from tgo_pipeline.generators.meissonic import MeissonicPipeline",
            "",
            f"pipeline = MeissonicPipeline.from_pretrained({_quoted(name)})",
        ]
        return Loading([*lines, _call(draw)], "tgo-pipeline")
    lines = [
        "from diffusers import DiffusionPipeline",
        "",
        f"pipeline = DiffusionPipeline.from_pretrained({_quoted(name)})",
    ]
    return Loading([*lines, _call(draw)])


def _adapter(description: Mapping[str, Any], model: Path, name: str, draw: Mapping[str, Any]) -> Loading:
    base, revision = str(description.get("base")), description.get("revision")
    if base in EMBEDDED or not _is_pipeline_adapter(model):
        return Loading([*_by_this_package(name), _call(draw)], "tgo-pipeline")
    pinned = f", revision={_quoted(str(revision))}" if revision else ""
    lines = [
        "from diffusers import DiffusionPipeline",
        "",
        f"pipeline = DiffusionPipeline.from_pretrained({_quoted(_shown(base))}{pinned})",
        f"pipeline.load_lora_weights({_quoted(name)})",
    ]
    return Loading([*lines, _call(draw)])


def _guided(name: str, draw: Mapping[str, Any]) -> Loading:
    lines = [*_by_this_package(name), "pipeline.guidance.strength = 1.0  # 0 is the base model"]
    return Loading([*lines, _call(draw)], "tgo-pipeline")


def _by_this_package(name: str) -> list[str]:
    """This package's loader reads folders: what is on the hub is downloaded first."""
    if Path(name).is_dir():
        return [
            "from tgo_pipeline.generators import load_pipeline",
            "",
            f"pipeline = load_pipeline({_quoted(name)})",
        ]
    return [
        "from huggingface_hub import snapshot_download",
        "from tgo_pipeline.generators import load_pipeline",
        "",
        f"pipeline = load_pipeline(snapshot_download({_quoted(name)}))",
    ]


def _call(draw: Mapping[str, Any]) -> str:
    prompt = f"{draw.get('prompt_prefix', '')}{PROMPT}"
    options = {key: value for key, value in draw.items() if key != "prompt_prefix"}
    arguments = [_quoted(prompt), *(f"{key}={_quoted(value)}" for key, value in options.items())]
    return f"picture = pipeline({', '.join(arguments)}).images[0]"


def _quoted(value: Any) -> str:
    """A text or number as Python, which is its JSON."""
    return json.dumps(value, ensure_ascii=False)


def _with_hints(description: Mapping[str, Any], draw: Mapping[str, Any]) -> dict[str, Any]:
    return {**draw, **description.get("sampling", {})}


def _shown(base: str) -> str:
    folder = Path(base).expanduser()
    return folder.name if folder.is_dir() else base


def _is_pipeline_adapter(model: Path) -> bool:
    """Whether the adapter's keys name the part of the pipeline that they belong to, as `load_lora_weights` wants it."""
    from safetensors import safe_open

    for path in sorted(model.glob("*.safetensors")):
        with safe_open(path, "pt") as stream:
            return all(key.startswith(("unet.", "transformer.")) for key in stream.keys())  # noqa: SIM118
    return False


def _is_meissonic(model: Path) -> bool:
    from tgo_pipeline.generators.pipelines import MEISSONIC

    index = index_of(model)
    return index.get("_class_name") in MEISSONIC and "vqvae" in index


def index_of(model: Path) -> dict[str, Any]:
    """The `model_index.json` of a pipeline folder; empty if it is none."""
    path = model / INDEX
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
