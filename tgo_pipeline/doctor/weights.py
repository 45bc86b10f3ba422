"""Whether the weight files of a pipeline folder are complete, by their headers: no weight is read."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators.location import INDEX, read_json
from tgo_pipeline.hub.integrity import refuse_imposter

NAMES = (
    "diffusion_pytorch_model.safetensors",
    "model.safetensors",
    "diffusion_pytorch_model.bin",
    "pytorch_model.bin",
)
"""What the libraries call a network's weights, in the order in which they are looked for; shards have an index."""
PLAIN = ("Scheduler", "Tokenizer", "Processor", "FeatureExtractor")
"""Parts without weights, by what their class is called."""
CHECKER = "safety_checker"


def networks(folder: Path) -> dict[str, str]:
    """The parts of a pipeline that have weights, and their classes, by its index; without the safety checker."""
    parts = {name: part for name, part in read_json(folder / INDEX).items() if isinstance(part, list)}
    return {
        name: part[1]
        for name, part in parts.items()
        if name != CHECKER and part[-1] and not any(word in part[1] for word in PLAIN)
    }


def numbers(folder: Path) -> int:
    """How many numbers the network in `folder` has; of a pickle at most one per two bytes.

    Raises `TgoError` for what is missing or broken: configuration, weights, a shard, a tensor that the index names.
    """
    if not (folder / "config.json").is_file():
        raise TgoError(f"{folder} has no config.json: copy the model again, complete.")
    read_json(folder / "config.json")
    return sum(map(count, weight_files(folder)))


def weight_files(folder: Path) -> list[Path]:
    """The files that hold a network's weights. Raises `TgoError` if there are none, or a shard is missing."""
    for name in NAMES:
        if (folder / name).is_file():
            return [folder / name]
        if (index := folder / f"{name}.index.json").is_file():
            return _shards(index)
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    have = f"; there is only {', '.join(others[:3])}, another variant or name" if others else ""
    raise TgoError(f"{folder} has no weights ({NAMES[0]} or {NAMES[1]}){have}: copy them there.")


def count(file: Path) -> int:
    """How many numbers a weight file holds. Raises `TgoError` if it is none, or not whole."""
    return sum(map(math.prod, shapes(file).values())) if file.suffix == ".safetensors" else _pickled(file)


def shapes(file: Path) -> dict[str, list[int]]:
    """The shapes of a safetensors file's tensors. Raises `TgoError` if its header is broken or it is cut short."""
    from safetensors import SafetensorError, safe_open

    refuse_imposter(file)
    try:
        with safe_open(file, "np") as stream:
            return {name: stream.get_slice(name).get_shape() for name in stream.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise TgoError(
            f"{file} ({file.stat().st_size:,} bytes) is damaged or was not copied to its end ({error}): copy it again."
        ) from error


def _pickled(file: Path) -> int:
    refuse_imposter(file)
    return file.stat().st_size // 2


def _shards(index: Path) -> list[Path]:
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict):
        raise TgoError(f"{index} has no weight_map: copy the model again.")
    files = [index.parent / name for name in sorted(set(places.values()))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise TgoError(
            f"{index} names {len(files)} files, and {', '.join(missing)} of them are missing: copy them there."
        )
    if lost := next(_lost(index.parent, places), None):
        raise TgoError(f"{index} says that {places[lost]} holds {lost}, which it does not: copy both again.")
    return files


def _lost(folder: Path, places: dict[str, str]) -> Iterator[str]:
    """Tensors that are not where the index says; a pickle is not opened."""
    held = {name: shapes(folder / name) for name in set(places.values()) if name.endswith(".safetensors")}
    return (tensor for tensor, name in places.items() if name in held and tensor not in held[name])
