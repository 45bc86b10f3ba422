"""A pipeline of the model hub, in the hub's cache on this machine: only the files that it is loaded from."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators.location import INDEX, LAYOUT, Location, check_index, is_meissonic, read_index
from tgo_pipeline.generators.networks.parts import network_classes
from tgo_pipeline.hub import weight_files
from tgo_pipeline.hub.errors import RAISED, refusal
from tgo_pipeline.hub.route import hub_out_of_reach

log = logging.getLogger("tgo")
LIGHT = ("*.json", "*.txt", "*.model")
"""Configurations and vocabularies."""


def fetch_pipeline(location: Location, without: Sequence[str]) -> Path:
    """The folder of a hub's pipeline, downloaded unless it is in the cache; nothing of the parts in `without`.

    Where a repository has weights in half precision alone, those. Raises `TgoError` if it cannot be had.
    """
    no_route = hub_out_of_reach()
    if no_route:
        log.warning("%s: only what the hub's cache here has of %s is looked for", no_route, location)
    cached = no_route is not None
    try:
        folder = _download(location, without, None, cached)
        index = read_index(folder)
        parts = [name for name in network_classes(index) if name not in without]
        if _without_weights(folder, parts):
            with contextlib.suppress(*RAISED):  # nor has it these: said below
                folder = _download(location, without, weight_files.VARIANTS[0], cached)
    except RAISED as error:
        raise TgoError(_explain(location, no_route or error)) from error
    if lacking := _without_weights(folder, parts):
        raise TgoError(
            f"{location}: neither the model hub nor its cache here ({folder}) has the weights of "
            f"{', '.join(lacking)}: check the network and the repository, or put the pipeline's files into a folder "
            f"and name that. {LAYOUT}"
        )
    return folder


def _without_weights(folder: Path, parts: Sequence[str]) -> list[str]:
    return [name for name in parts if not weight_files.are_in(folder / name)]


def _download(location: Location, without: Sequence[str], variant: str | None, cached: bool) -> Path:
    from diffusers.pipelines.pipeline_utils import DiffusionPipeline

    repository = str(location.hub_id)
    where: dict[str, Any] = {"revision": location.revision, "local_files_only": cached}
    index: Any = DiffusionPipeline.load_config(repository, **where)
    check_index(index, f"{INDEX} of {location}")
    if is_meissonic(index):
        return _download_meissonic(repository, where, without, variant)
    left_out = dict.fromkeys(name for name in without if name in index)
    if "safety_checker" in index:
        left_out["safety_checker"] = None
    return Path(DiffusionPipeline.download(repository, variant=variant, **where, **left_out))


def _download_meissonic(
    repository: str, where: dict[str, Any], without: Sequence[str], variant: str | None
) -> Path:
    """The library knows which files its own pipelines need, not those of one whose index names other modules."""
    from huggingface_hub import snapshot_download

    from tgo_pipeline.generators.meissonic import PARTS

    parts = [name for name in PARTS if name not in without]
    wanted = [f"{name}/{pattern}" for name in parts for pattern in (*LIGHT, "*.safetensors")]
    unwanted = [] if variant else [f"*.{each}.safetensors" for each in weight_files.VARIANTS]
    return Path(
        snapshot_download(repository, allow_patterns=[INDEX, *wanted], ignore_patterns=unwanted, **where)
    )


def _explain(location: Location, error: Exception) -> str:
    at = f" at revision {location.revision}" if location.revision else ""
    reason = refusal(error, str(location.hub_id), revision=location.revision)
    return (
        f"model is {location.hub_id!r}: there is no such folder here, and the model hub did not give it{at} "
        f"({reason}). On a machine without network put the pipeline's files into a folder and name that. {LAYOUT}"
    )
