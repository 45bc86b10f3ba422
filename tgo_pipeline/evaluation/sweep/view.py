"""A sweep as a table in a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.storage.tables import read_metadata, read_table

if TYPE_CHECKING:
    from rich.table import Table

    from tgo_pipeline.rewards.toys import ShownNames

WIDE = 132
"""Columns of a sweep of five strengths."""


def show(path: Path, shown: ShownNames) -> Table:
    """One row for each measure, one column for each strength: the difference to strength 0 with its interval."""
    from rich.markup import escape
    from rich.table import Table

    from tgo_pipeline.evaluation.sweep.sweep import SWEEP

    rows = shown.rows(read_table(path, SWEEP).to_pylist(), "measure")
    strengths = list(dict.fromkeys(row["strength"] for row in rows))
    confidence = read_metadata(path, ("confidence",))["confidence"]
    table = Table(title=f"Difference to strength 0 [{confidence:.0%}]", title_justify="left")
    for name in ("measure", "mean at 0", *(f"{strength:g}" for strength in strengths[1:])):
        table.add_column(name, justify="left" if name == "measure" else "right")
    for measure in dict.fromkeys((row["kind"], row["measure"]) for row in rows):
        base, *others = [row for row in rows if (row["kind"], row["measure"]) == measure]
        table.add_row(escape(base["measure"]), f"{base['mean']:.4g}", *(escape(_cell(row)) for row in others))
    return table


def _cell(row: dict[str, Any]) -> str:
    low, high = row["difference_low"], row["difference_high"]
    interval = "" if low is None else f"\n[{low:+.2g}, {high:+.2g}]"
    return f"{row['difference']:+.2g}{interval}"
