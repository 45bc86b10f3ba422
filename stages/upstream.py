"""The order of the stages, and whether the results that one builds on are those of the parameters; if not, it stops.

`--allow-stale`, or `TGO_ALLOW_STALE=1` for `dvc repro` and everything that a command starts, goes on with them.
"""

from __future__ import annotations

import importlib
import logging
import os
from typing import TYPE_CHECKING

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.object_stores import StoreError
from tgo_pipeline.params import Params
from tgo_pipeline.params.overrides import noted
from tgo_pipeline.storage.workspace import HERE, Workspace

if TYPE_CHECKING:
    from pathlib import Path

    from tgo_pipeline.storage.shards import Status

log = logging.getLogger("tgo")
STAGES = ("prompts", "generate", "score", "threshold", "label", "fine_tune", "evaluate", "report")
PIPELINE = ("inputs", *STAGES)
"""The stages of dvc.yaml: the first one notes for DVC what the others depend on, and has nothing to show by itself."""
ALLOW = "TGO_ALLOW_STALE"


def require_current(stage: str, params: Params, workspace: Workspace = HERE) -> None:
    """Raise `TgoError` if a stage before this one is half done, or what it wrote is not what it would write now."""
    for earlier in before(stage):
        said = outdated(earlier, params, workspace)
        if said is None:
            continue
        if os.environ.get(ALLOW, "0") not in ("", "0"):
            log.warning("%s; going on all the same, as %s says", said, ALLOW)
            continue
        raise TgoError(
            f"{said}: run `tgo run {earlier}` first, or go on with what there is (--allow-stale, or {ALLOW}=1)."
        )


def before(stage: str) -> tuple[str, ...]:
    """The stages that come before one, each of which it builds on."""
    return STAGES[: STAGES.index(stage)]


def is_outdated(now: Status) -> bool:
    """Whether there are results, and not those that there would be now, or not all of them.

    Tables of other tools are taken as they are: whoever reads them checks their columns.
    """
    return now.stale > now.foreign or bool(now.done and now.to_do)


def _look(stage: str, params: Params, workspace: Workspace) -> tuple[Status, str] | None:
    """How far a stage is, and of what; None where its own inputs are missing, as the stage itself says.

    Raises `StoreError` if the store that holds them does not answer.
    """
    from tgo_pipeline.plugins.folder import looking

    try:
        with looking():
            return importlib.import_module(f"stages.{stage}").shards(params, workspace)
    except StoreError:
        raise
    except TgoError:
        return None


def outdated(stage: str, params: Params, workspace: Workspace = HERE) -> str | None:
    """In what way the results of a stage are not those of the parameters; None if they are, or if there are none.

    Nothing can be said, either, of results whose own inputs are missing: what is missing says whoever reads it. Raises
    `StoreError` if the store that holds them does not answer.
    """
    found = _look(stage, params, workspace)
    if found is None or not is_outdated(found[0]):
        return None
    now, what = found
    given = " ".join(f"--set {each}" for each in noted(stage, workspace))
    made = f"; they were made with {given}" if given else ""
    return f"the results of {stage} are not those of the parameters and inputs of now ({now}; {what}{made})"


def is_current(stage: str, params: Params) -> bool:
    """Whether the results of a stage are all there, and those of the parameters and inputs of now."""
    found = _look(stage, params, HERE)
    if found is None:
        return False
    now, _ = found
    return (
        bool(now.done)
        and not now.to_do
        and not is_outdated(now)
        and all(path.exists() for path in _outputs(stage))
    )


def _outputs(stage: str) -> list[Path]:
    """What the pipeline says that a stage writes: metrics, too, come after its last shard."""
    from tgo_pipeline.storage.project import pipeline

    entry = pipeline()["stages"][stage]
    listed = [*entry.get("outs", ()), *entry.get("metrics", ()), *entry.get("plots", ())]
    return [HERE.root / (each if isinstance(each, str) else next(iter(each))) for each in listed]
