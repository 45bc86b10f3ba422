"""How far every stage is, for `tgo status`: from file metadata alone, no model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from stages import STAGES
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params
from tgo_pipeline.storage import paths
from tgo_pipeline.storage.shards import Status, status

if TYPE_CHECKING:
    from pathlib import Path

    from rich.table import Table


def table(params: Params) -> Table:
    """One row per stage: shards (or tables, or training steps) done, stale and to do, and failed samples."""
    from rich.table import Table

    shown = Table(title="Stages", title_justify="left")
    shown.add_column("stage")
    for name in ("done", "stale", "to do", "failed samples"):
        shown.add_column(name, justify="right")
    shown.add_column("note", style="dim", overflow="fold")
    for stage in STAGES:
        shown.add_row(stage, *_row(stage, params))
    return shown


def _row(stage: str, params: Params) -> list[str]:
    from rich.markup import escape

    try:
        now, note = _STATUS[stage](params)
    except TgoError as error:
        return ["", "", "", "", escape(str(error))]
    failed = f"[red]{now.failed}[/]" if now.failed else "0"
    return [str(now.done), str(now.stale), str(now.to_do), failed, note]


def _one_file(path: Path, expected: str | None = None) -> tuple[Status, str]:
    """A stage of one table: stale where its stored fingerprint is not the expected one."""
    from tgo_pipeline.storage.tables import read_metadata

    if not path.is_file():
        return Status(0, 0, 1, 0), str(path)
    stale = expected is not None and read_metadata(path).get("fingerprint") != expected
    return Status(int(not stale), int(stale), 0, 0), str(path)


def _prompts(params: Params) -> tuple[Status, str]:
    from tgo_pipeline.prompts import planned_fingerprint

    return _one_file(paths.PROMPTS, planned_fingerprint(params.prompts, params.seed))


def _generate(params: Params) -> tuple[Status, str]:
    from stages.generate import plan

    return status(paths.GENERATIONS, plan(params)), f"shards of {paths.GENERATIONS}"


def _score(params: Params) -> tuple[Status, str]:
    from stages.score import plan

    return status(paths.SCORES, plan(params)), f"shards of {paths.SCORES}"


def _threshold(params: Params) -> tuple[Status, str]:
    """The thresholds table, and the adequacy table, which has a version of its own."""
    from tgo_pipeline.thresholds.adequacy import table as adequacy_table
    from tgo_pipeline.thresholds.stage import planned_fingerprint

    mark = planned_fingerprint(params, paths.SCORES)
    fitted, where = _one_file(paths.THRESHOLDS, mark)
    if not fitted.done or _one_file(paths.ADEQUACY, adequacy_table.planned_fingerprint(mark))[0].done:
        return fitted, where
    return Status(0, 1, 0, 0), f"{paths.ADEQUACY} alone: tau and labels stay as they are"


def _label(params: Params) -> tuple[Status, str]:
    from tgo_pipeline.thresholds.labels import plan

    planned = plan(params, scores=paths.SCORES, thresholds=paths.THRESHOLDS)
    return status(paths.LABELS, planned), f"shards of {paths.LABELS}"


def _fine_tune(params: Params) -> tuple[Status, str]:
    from fine_tune.stage import progress

    now = progress(
        params,
        labels=paths.LABELS,
        generations=paths.GENERATIONS,
        output=paths.MODEL,
        checkpoints=paths.CHECKPOINTS,
    )
    return Status(now.step, 0, now.steps - now.step, 0), f"steps of {paths.MODEL}"


def _evaluate(params: Params) -> tuple[Status, str]:
    from tgo_pipeline.evaluation.stage import plan

    planned = plan(params, prompts=paths.PROMPTS, model=paths.MODEL, folder=paths.EVALUATION_IMAGES)
    every = [status(folder, shards) for folder, shards in planned.items()]
    total = Status(
        *(sum(getattr(one, name) for one in every) for name in ("done", "stale", "to_do", "failed")),
    )
    return total, f"shards of {paths.EVALUATION_IMAGES}"


def _report(params: Params) -> tuple[Status, str]:
    return _one_file(paths.REPORT)


_STATUS: dict[str, Callable[[Params], tuple[Status, str]]] = {
    "prompts": _prompts,
    "generate": _generate,
    "score": _score,
    "threshold": _threshold,
    "label": _label,
    "fine_tune": _fine_tune,
    "evaluate": _evaluate,
    "report": _report,
}
