"""`tgo status`: how far every stage is, from file metadata alone, no model is loaded."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

from stages import PARAMS, STAGES
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params
from tgo_pipeline.plugins.folder import looking

if TYPE_CHECKING:
    from rich.table import Table


def status(params: Path = PARAMS) -> None:
    """Show the shards of every stage that are done, stale or to do, and the samples that failed."""
    from tgo_pipeline.params import load_params
    from tgo_pipeline.rendering.terminal import show

    show(table(load_params(params)))


def table(params: Params) -> Table:
    """One row per stage: shards (or tables, or training steps) done, stale and to do, and failed samples."""
    from rich.table import Table

    shown = Table(title="Stages", title_justify="left")
    shown.add_column("stage")
    for name in ("done", "stale", "to do", "failed samples"):
        shown.add_column(name, justify="right")
    shown.add_column("note", style="dim", overflow="fold")
    with looking():
        for stage in STAGES:
            shown.add_row(stage, *_row(stage, params))
    return shown


def _row(stage: str, params: Params) -> list[str]:
    from rich.markup import escape

    try:
        now, note = importlib.import_module(f"stages.{stage}").shards(params)
    except TgoError as error:
        return ["", "", "", "", escape(str(error))]
    failed = f"[red]{now.failed}[/]" if now.failed else "0"
    return [str(now.done), str(now.stale), str(now.to_do), failed, note]
