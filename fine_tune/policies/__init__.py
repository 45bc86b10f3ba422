"""The model families by the class of their pipeline: one file each."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError

if TYPE_CHECKING:
    from fine_tune.policies.base import Policy

POLICIES: dict[str, str] = {"StableDiffusionPipeline": "fine_tune.policies.diffusion:DiffusionPolicy"}


def policy_class(pipeline: Any) -> type[Policy]:
    """The policy for a loaded pipeline. Raises `TgoError` for a family that cannot be fine-tuned."""
    name = type(pipeline).__name__
    if name not in POLICIES:
        raise TgoError(
            f"the model is a {name}, which cannot be fine-tuned here: give a model of one of these classes: "
            f"{', '.join(POLICIES)}."
        )
    module, _, attribute = POLICIES[name].partition(":")
    return getattr(importlib.import_module(module), attribute)
