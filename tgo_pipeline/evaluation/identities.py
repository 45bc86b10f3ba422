"""What exactly a model of an evaluation is, from its files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tgo_pipeline.hub.address import MOVING

TUNED = ("method", "objective", "steps", "base", "revision")
"""What a legend says of the description that fine_tune leaves beside its result."""


def model_identity(model: str, revision: str | None) -> dict[str, Any]:
    """Name, revision, fingerprint, pipeline class and scheduler of a model; how it was tuned or is guided, if it is.

    Loads nothing and asks no network: a hub id whose index is not in the local cache has no class and no scheduler.
    """
    from tgo_pipeline.generators.location import (
        described_guidance,
        description,
        locate,
        model_fingerprint,
        sampling_hints,
    )

    identity: dict[str, Any] = {"model": model, "revision": revision}
    if described := described_guidance(model):
        base, base_revision, guidance = described
        identity["guidance"] = {
            "base": base,
            "revision": base_revision,
            "kind": guidance.kind,
            "strength": guidance.strength,
        }
        location = locate(base, base_revision)
    else:
        location = locate(model, revision)
        if location.hub_id is not None and location.adapter is None:
            identity["revision"] = _pinned(revision)
    place = location.adapter or location.folder
    tuned = description(place) if place is not None else {}
    identity["tuned"] = {key: tuned[key] for key in TUNED if tuned.get(key) is not None}
    index = _index(location.folder, location.hub_id, location.revision)
    return identity | {
        "fingerprint": model_fingerprint(model, revision),
        "pipeline": index.get("_class_name"),
        "scheduler": _scheduler(index),
        "prompt words": dict(sampling_hints(model)),
    }


def _pinned(revision: str | None) -> str:
    """A revision as a legend states it: with a branch the model is another one tomorrow."""
    if revision is None:
        return "not pinned"
    return f"{revision} (not pinned: it moves)" if revision in MOVING else revision


def _index(folder: Path | None, hub_id: str | None, revision: str | None) -> dict[str, Any]:
    from huggingface_hub import try_to_load_from_cache

    from tgo_pipeline.generators.location import INDEX, read_index

    if folder is None:
        cached = try_to_load_from_cache(str(hub_id), INDEX, revision=revision)
        if not isinstance(cached, str):
            return {}
        folder = Path(cached).parent
    return read_index(folder)


def _scheduler(index: dict[str, Any]) -> str | None:
    from tgo_pipeline.generators.location import components

    return components(index).get("scheduler")
