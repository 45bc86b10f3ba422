"""Which files hold the weights of a network, and what their headers say; no weight is read."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from tgo_pipeline.errors import TgoError, first_line
from tgo_pipeline.hub.json_files import read_json

log = logging.getLogger("tgo")
INDEX = ".index.json"
"""How the name of a file ends that says which shard holds which tensor."""
DIFFUSERS, TRANSFORMERS = "diffusion_pytorch_model.safetensors", "model.safetensors"
PICKLES = ("diffusion_pytorch_model.bin", "pytorch_model.bin")
_SNIFFED_BYTES = 512
"""Enough to recognise a Git LFS pointer or the beginning of a web page."""
VARIANTS = ("fp16", "bf16")
"""The same weights in half precision, by a part of the file's name; others, such as `ema`, are other weights."""


class WeightFiles(NamedTuple):
    """The files of one network, and the variant that they are of, if there is no plain one."""

    files: list[Path]
    variant: str | None = None


def find(folder: Path) -> WeightFiles:
    """The files of a network, whole or in shards; a variant in half precision where there is nothing else.

    Raises `TgoError` if there are none, a shard is missing, or a tensor is not in the shard that the index names.
    """
    if (first := _first(folder)) is not None:
        return WeightFiles(shards(folder / first[0]), first[1])
    others = sorted(file.name for file in folder.glob("*.safetensors"))
    have = f"; there is only {', '.join(others[:3])}, another variant or name" if others else ""
    raise TgoError(f"{folder} has no weights ({DIFFUSERS} or {TRANSFORMERS}){have}: copy them there.")


def are_in(folder: Path) -> bool:
    """Whether a folder holds weights at all."""
    return _first(folder) is not None


def _first(folder: Path) -> tuple[str, str | None] | None:
    """The name of the file or index that the weights are read from, and the variant that it is of."""
    return next(
        (
            (name, variant)
            for variant in (None, *VARIANTS)
            for name in _names(variant)
            if (folder / name).is_file()
        ),
        None,
    )


def _names(variant: str | None) -> Iterator[str]:
    """In the order of the libraries: `diffusers` takes shards first, `transformers` last; pickles after safetensors."""
    yield from reversed(list(_forms(DIFFUSERS, variant)))
    yield from _forms(TRANSFORMERS, variant)
    for pickle in PICKLES:
        yield from _forms(pickle, variant)


def forms(names: Iterable[str]) -> Iterator[tuple[str, str | None]]:
    """Under which names the weights of a reward may lie, and the variant: as they are, in shards, in half precision."""
    whole = [name for name in names if name.endswith((".safetensors", ".bin"))]
    yield from ((name, None) for name in names)
    yield from ((f"{name}{INDEX}", None) for name in whole)
    for variant in VARIANTS:
        yield from ((form, variant) for name in whole for form in _forms(name, variant))


def say_variant(place: Path, variant: str | None) -> None:
    """One line for weights that are in half precision because there are no others."""
    if variant is not None:
        log.warning("%s: there is only the variant %s of its weights: using it", place, variant)


def _forms(name: str, variant: str | None) -> Iterator[str]:
    """The whole file, and the index of its shards."""
    stem, suffix = name.rsplit(".", 1)
    if variant is None:
        yield from (name, f"{name}{INDEX}")
    else:
        yield from (f"{stem}.{variant}.{suffix}", f"{name}.index.{variant}.json")


def shards(path: Path) -> list[Path]:
    """The files that an index names, or the file itself. Raises `TgoError` for an index that does not fit its files."""
    if path.suffix != ".json":
        return [path]
    places = _places(path)
    files = [path.parent / name for name in sorted(set(places.values()))]
    if missing := [file.name for file in files if not file.is_file()]:
        raise TgoError(
            f"{path} names {len(files)} files, and {', '.join(missing)} of them are missing: copy them there."
        )
    if lost := next(_lost(path.parent, places), None):
        raise TgoError(f"{path} says that {places[lost]} holds {lost}, which it does not: copy both again.")
    return files


def named_shards(path: Path) -> list[str]:
    """The names of the files that an index names; none for another file."""
    return sorted(set(_places(path).values())) if path.suffix == ".json" else []


def _places(index: Path) -> dict[str, str]:
    """Tensor to file. Raises `TgoError` for an index that leads out of its folder, or is none."""
    places = read_json(index).get("weight_map")
    if not isinstance(places, dict) or not places:
        raise TgoError(f"{index} has no weight_map: copy it again, complete.")
    for tensor, name in places.items():
        if not isinstance(name, str) or Path(name).name != name or name in ("", ".."):
            raise TgoError(
                f"{index}: weight_map says that {tensor} is in {name!r}, which is no file beside it: copy it again."
            )
    return places


def _lost(folder: Path, places: Mapping[str, str]) -> Iterator[str]:
    """Tensors that are not where the index says; a pickle is not opened."""
    held = {name: shapes(folder / name) for name in set(places.values()) if name.endswith(".safetensors")}
    return (tensor for tensor, name in places.items() if name in held and tensor not in held[name])


def shapes(file: Path) -> dict[str, list[int]]:
    """The shapes of a safetensors file's tensors. Raises `TgoError` if its header is broken or it is cut short."""
    return {name: shape for name, (shape, _) in header(file).items()}


def header(file: Path) -> dict[str, tuple[list[int], str]]:
    """Shape and type (`F32`) of a safetensors file's tensors. Raises `TgoError` as `shapes` does."""
    from safetensors import SafetensorError, safe_open

    refuse_imposter(file)
    try:
        with safe_open(file, "np") as stream:
            slices = {name: stream.get_slice(name) for name in stream.keys()}  # noqa: SIM118
            return {name: (each.get_shape(), each.get_dtype()) for name, each in slices.items()}
    except (SafetensorError, OSError) as error:
        raise TgoError(
            f"{file} ({file.stat().st_size:,} bytes) is damaged or was not copied to its end ({first_line(error)}): "
            "copy it again."
        ) from error


def count(files: Iterable[Path]) -> int:
    """How many numbers weight files hold; a pickle at most one per two bytes. Raises `TgoError` if one is not whole."""
    return sum(map(_count, files))


def _count(file: Path) -> int:
    if file.suffix == ".safetensors":
        return sum(map(math.prod, shapes(file).values()))
    refuse_imposter(file)
    return file.stat().st_size // 2


def refuse_imposter(path: Path) -> None:
    """Raise `TgoError` for what often lies under the name of a weight file: nothing, a pointer, a web page."""
    with path.open("rb") as stream:
        start = stream.read(_SNIFFED_BYTES).lstrip()
    if not start:
        raise TgoError(f"{path} is empty: download it again.")
    if start.startswith(b"version https://git-lfs.github.com/spec/"):
        raise TgoError(
            f"{path} is a Git LFS pointer of {path.stat().st_size} bytes, not the file itself: run `git lfs pull` "
            "where it was cloned, or download the file."
        )
    if start.lower().startswith((b"<!doctype html", b"<html", b"<?xml")):
        raise TgoError(
            f"{path} is a web page, not weights: the download was answered with a page (a login, an error, or the "
            "page around the file). Download the file itself."
        )
