"""`tgo status`: how far every stage is, from file metadata alone, no model is loaded; `--verify` reads every file."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stages import PARAMS, STAGES
from stages.upstream import is_outdated
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params
from tgo_pipeline.plugins.folder import looking

if TYPE_CHECKING:
    from rich.table import Table


def status(
    params: Path = PARAMS,
    verify: bool = typer.Option(
        False, "--verify", help="Read every stored file and compare it with the digest of what was written."
    ),
) -> None:
    """Show the shards of every stage that are done, stale or to do, and the samples that failed."""
    from tgo_pipeline.params import load_params
    from tgo_pipeline.rendering.terminal import show
    from tgo_pipeline.storage.stores.syncing import attach
    from tgo_pipeline.storage.workspace import HERE

    loaded = load_params(params)
    attach(HERE.data, loaded.runtime.data)
    show(table(loaded))
    if verify:
        _verify()


def _verify() -> None:
    """Say what the files of the project hold. Raises `TgoError` if one is damaged."""
    from tgo_pipeline.doctor.audit import audit
    from tgo_pipeline.rendering import text
    from tgo_pipeline.storage.workspace import HERE

    found = audit(HERE)
    typer.echo(
        f"{found.right:,} files and models hold what was written, {found.noted:,} had no digest and have one now, "
        f"{len(found.damaged):,} are damaged; {text.size(found.size_bytes)} read."
    )
    if found.damaged:
        raise TgoError("\n".join(found.damaged))


def table(params: Params) -> Table:
    """One row per stage: shards (or tables, or training steps) done, stale and to do, and failed samples."""
    from rich.table import Table

    shown = Table(title="Stages", title_justify="left")
    shown.add_column("stage")
    for name in ("done", "stale", "to do", "failed samples"):
        shown.add_column(name, justify="right")
    shown.add_column("note", style="dim", overflow="fold")
    with looking():
        late: list[str] = []
        for stage in STAGES:
            shown.add_row(stage, *_row(stage, params, late))
    return shown


def _row(stage: str, params: Params, late: list[str]) -> list[str]:
    """The cells of a stage; `late` are the stages before it that are not up to date, and gets this one if it is not."""
    from rich.markup import escape

    try:
        now, note = importlib.import_module(f"stages.{stage}").shards(params)
    except TgoError as error:
        return ["", "", "", "", escape(str(error))]
    failed = f"[red]{now.failed}[/]" if now.failed else "0"
    if late and now.done:
        note = f"[yellow]built on results that are not up to date: {', '.join(late)}[/]; {note}"
    if is_outdated(now):
        late.append(stage)
    return [str(now.done), str(now.stale), str(now.to_do), failed, note]
