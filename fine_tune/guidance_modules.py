"""Preference as guidance: the modules that `pgd` and `cpgd` train, and what is made of them (arXiv 2602.18799)."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

from tgo_pipeline.params.objectives import SftParams

if TYPE_CHECKING:
    from tgo_pipeline.params import FineTuneParams, Params
    from tgo_pipeline.storage.shards import Mark

POSITIVE, NEGATIVE = "positive", "negative"


def modules(params: Params) -> dict[str, Params]:
    """The trainings of `pgd` (DPO, or `guidance.module`) or `cpgd` (SFT on either side) by name; empty for others."""
    tuning = params.fine_tune
    if tuning.objective == "pgd":
        return {POSITIVE: _with(params, dataclasses.replace(tuning, objective=tuning.guidance.module))}
    if tuning.objective == "cpgd":
        return {
            POSITIVE: _with(params, _sft(tuning, "positive")),
            NEGATIVE: _with(params, _sft(tuning, "negative")),
        }
    return {}


def _sft(tuning: FineTuneParams, side: str) -> FineTuneParams:
    return dataclasses.replace(tuning, objective="sft", sft=SftParams(side=side))  # type: ignore[arg-type]


def _with(params: Params, tuning: FineTuneParams) -> Params:
    return dataclasses.replace(params, fine_tune=tuning)


def folder_of(params: Params, name: str, output: Path, checkpoints: Path) -> Path:
    """Where a module lies: in the result, or with the checkpoints if the result is merged."""
    merged = params.fine_tune.guidance.merge
    return checkpoints / "modules" / name if merged else output / name


def describe(params: Params, mark: Mark) -> dict[str, object]:
    """What `tgo.json` of a result that is guided by modules says."""
    tuning = params.fine_tune
    return {
        "base": params.model,
        "revision": params.revision,
        "method": "guidance",
        "objective": tuning.objective,
        "kind": tuning.objective,
        "strength": tuning.guidance.strength,
        POSITIVE: POSITIVE,
        NEGATIVE: NEGATIVE if tuning.objective == "cpgd" else None,
        "steps": tuning.steps,
        "seed": params.seed,
        **mark.entries(),
    }


def finish(params: Params, output: Path, checkpoints: Path, mark: Mark) -> None:
    """Make the result of finished modules: a description beside them, or one merged model in their place."""
    from fine_tune.result import DESCRIPTION
    from tgo_pipeline.storage.writing import atomic, atomic_folder

    description = describe(params, mark)
    if not params.fine_tune.guidance.merge:
        _remove_others(output, modules(params))
        with atomic(output / DESCRIPTION) as temporary:
            temporary.write_text(json.dumps(description, indent=2) + "\n")
        return
    from tgo_pipeline.generators.merge import merge

    folders = {name: folder_of(params, name, output, checkpoints) for name in modules(params)}
    method = params.fine_tune.method
    with atomic_folder(output) as temporary:
        merge(
            params.model,
            str(folders[POSITIVE]),
            str(folders[NEGATIVE]) if NEGATIVE in folders else None,
            strength=params.fine_tune.guidance.strength,
            output=temporary,
            revision=params.revision,
        )
        text = json.dumps({**description, "method": method, "merged": True}, indent=2) + "\n"
        (temporary / DESCRIPTION).write_text(text)


def _remove_others(output: Path, kept: Collection[str]) -> None:
    """Remove what an earlier result left beside the modules, its description first: without it, it counts as none."""
    from fine_tune.result import DESCRIPTION

    (output / DESCRIPTION).unlink(missing_ok=True)
    for path in output.iterdir():
        if path.name in kept:
            continue
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
