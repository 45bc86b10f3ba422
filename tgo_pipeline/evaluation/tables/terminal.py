"""The evaluation as tables in a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.evaluation.tables.legend import shown_names
from tgo_pipeline.evaluation.tables.tables import short_sheet
from tgo_pipeline.rendering.terminal import sheet_parts
from tgo_pipeline.storage.tables import read_metadata, read_table

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


WIDTHS = {"models": 140, "matrix": 180, "hacking": 180}
"""Columns of a table that goes to a file or a pipe, where they are more than usual."""


def view(name: str, path: Path) -> Group:
    """A table of the evaluation for `rich`'s console: `evaluation`, `models`, `matrix` or `hacking`.

    `path` is `evaluation.parquet`; the others lie in the folder `evaluation` beside it. Raises `TgoError` for another
    name or a missing table.
    """
    from rich.console import Group

    from tgo_pipeline.evaluation.tables.export import document

    if name == "evaluation":
        return Group(show(path), *_suspicions(_source("hacking", path)))
    shown = document(name, _source(name, path))
    return Group(*(part for sheet in shown.sheets for part in sheet_parts(sheet)))


def text(name: str, path: Path, form: str) -> str:
    """The same as `md`, `tex` or `csv`, with its legend (but in csv). Raises `TgoError` for another format."""
    from tgo_pipeline.evaluation.tables import export

    return export.text(name, _source(name, path), form)


def _source(name: str, path: Path) -> Path:
    from tgo_pipeline.evaluation.tables.export import source

    return source(name, path, path.parent / "evaluation")


def _suspicions(path: Path) -> list[str]:
    """A line for each held-out reward that the target's gain does not show in."""
    from rich.markup import escape

    from tgo_pipeline.evaluation.statistics.hacking import HACKING, suspicions
    from tgo_pipeline.rendering.text import one_line

    if not path.is_file():
        return []
    shown = shown_names(read_metadata(path).get("legend", {}))
    notes = map(shown.text, suspicions(read_table(path, HACKING)))
    return [f"[yellow]{escape(one_line(note, None))}[/]" for note in notes]


def show(path: Path) -> Group:
    """One table per test set of `evaluation.parquet`, for `rich`'s console. Raises `TgoError` if it is missing."""
    from rich.console import Group

    from tgo_pipeline.evaluation.statistics.compare import EVALUATION

    table, metadata = read_table(path, EVALUATION), read_metadata(path, ("confidence", "excluded"))
    rows = shown_names(metadata.get("legend", {})).rows(table.to_pylist(), "reward")
    names = dict.fromkeys(row["test_set"] for row in rows)
    tables = [
        _set_table(name, [r for r in rows if r["test_set"] == name], metadata["confidence"]) for name in names
    ]
    return Group(*tables, *_notes(metadata["excluded"]))


def _set_table(name: str, rows: list[dict[str, Any]], confidence: float) -> Table | str:
    title = f"{name} (prompts: {rows[0]['n_prompts']}, pairs: {rows[0]['n']})"
    (table,) = sheet_parts(short_sheet(title, rows, confidence), [_style(row, confidence) for row in rows])
    return table


def _style(row: dict[str, Any], confidence: float) -> str:
    """Green above and red below zero where the whole interval of enough prompts is; bold for the target."""
    from tgo_pipeline.evaluation.statistics.intervals import may_decide

    sure = may_decide(row["n_prompts"], confidence)
    low, high = (row["difference_low"], row["difference_high"]) if sure else (None, None)
    colour = "green" if low is not None and low > 0 else "red" if high is not None and high < 0 else ""
    return f"bold {colour}".strip() if row["is_target"] else colour


def _notes(excluded: int) -> list[str]:
    notes = [
        "Effect: difference in standard deviations of the base model. A win is strict; ties count for neither."
    ]
    if excluded:
        notes.append(f"Samples left out of the pairs because one side has no score: {excluded}.")
    return notes
