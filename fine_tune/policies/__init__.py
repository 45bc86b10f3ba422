"""The model families by the class of their pipeline: one file each."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError

if TYPE_CHECKING:
    from fine_tune.policies.base import Policy

POLICIES: dict[str, str] = {
    "StableDiffusionPipeline": "fine_tune.policies.diffusion:DiffusionPolicy",
    "StableDiffusionXLPipeline": "fine_tune.policies.diffusion:DiffusionXLPolicy",
    "StableDiffusion3Pipeline": "fine_tune.policies.flow:SD3Policy",
    "FluxPipeline": "fine_tune.policies.flow:FluxPolicy",
    "AmusedPipeline": "fine_tune.policies.masked:AmusedPolicy",
    "MeissonicPipeline": "fine_tune.policies.masked:MeissonicPolicy",
}


def policy_class(pipeline: Any) -> type[Policy]:
    """The policy for a loaded pipeline. Raises `TgoError` for a family that cannot be fine-tuned."""
    if hasattr(pipeline, "guidance"):
        raise TgoError(
            "the model is guided by modules, which is several networks: merge them into one (docs/GUIDANCE.md), or "
            "tune its base."
        )
    name = type(pipeline).__name__
    if name not in POLICIES:
        raise TgoError(
            f"the model is a {name}, which cannot be fine-tuned here: give a model of one of these classes: "
            f"{', '.join(POLICIES)}."
        )
    module, _, attribute = POLICIES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
