"""The objectives by name: one file each, one loss per sample (or pair) each; those of one's own by the same door."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fine_tune.objectives.base import Batch, Objective
from tgo_pipeline.plugins.kinds import OBJECTIVE

if TYPE_CHECKING:
    from tgo_pipeline.params import FineTuneParams

OBJECTIVES = OBJECTIVE.builtin
"""The objectives of this package by name, as `module:object`."""

__all__ = ["OBJECTIVES", "Batch", "Objective", "make_objective", "objective_class"]


def objective_class(name: str) -> type[Objective]:
    """The objective of a name. Raises `TgoError` if it is none, or cannot be had."""
    return OBJECTIVE.load(name, Objective)


def make_objective(params: FineTuneParams) -> Objective:
    """The objective that the parameters name, with their options."""
    return objective_class(params.objective)(params)
