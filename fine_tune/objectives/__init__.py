"""The objectives by name: one file each, one loss per sample (or pair) each."""

from __future__ import annotations

from typing import TYPE_CHECKING

from fine_tune.objectives.awr import Awr
from fine_tune.objectives.base import Batch, Objective
from fine_tune.objectives.bco import Bco
from fine_tune.objectives.csft import Csft
from fine_tune.objectives.dpo import Dpo
from fine_tune.objectives.dspo import Dspo
from fine_tune.objectives.kto import Kto
from fine_tune.objectives.mapo import Mapo
from fine_tune.objectives.qrpo import Qrpo
from fine_tune.objectives.rwr import Rwr
from fine_tune.objectives.sft import Sft
from fine_tune.objectives.tgo import Tgo

if TYPE_CHECKING:
    from tgo_pipeline.params import FineTuneParams

OBJECTIVES: dict[str, type[Objective]] = {
    "tgo": Tgo,
    "sft": Sft,
    "csft": Csft,
    "dpo": Dpo,
    "kto": Kto,
    "dspo": Dspo,
    "bco": Bco,
    "mapo": Mapo,
    "rwr": Rwr,
    "awr": Awr,
    "qrpo": Qrpo,
}

__all__ = ["OBJECTIVES", "Batch", "Objective", "make_objective"]


def make_objective(params: FineTuneParams) -> Objective:
    """The objective that the parameters name, with their options."""
    return OBJECTIVES[params.objective](params)
