"""The objectives by name: one file each, one loss per sample each."""

from fine_tune.objectives import sft, tgo
from fine_tune.objectives.base import Batch, Objective

OBJECTIVES: dict[str, Objective] = {"tgo": tgo.OBJECTIVE, "sft": sft.OBJECTIVE}

__all__ = ["OBJECTIVES", "Batch", "Objective"]
