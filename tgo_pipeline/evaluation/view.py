"""The evaluation as tables in a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.tables import read_metadata, read_table

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table


def show(path: Path) -> Group:
    """One table per test set of `evaluation.parquet`, for `rich`'s console. Raises `TgoError` if it is missing."""
    from rich.console import Group

    from tgo_pipeline.evaluation.compare import EVALUATION

    rows = read_table(path, EVALUATION).to_pylist()
    confidence = read_metadata(path).get("confidence", 0.95)
    names = dict.fromkeys(row["test_set"] for row in rows)
    tables = [_set_table(name, [r for r in rows if r["test_set"] == name], confidence) for name in names]
    return Group(*tables, *_notes(rows))


def _set_table(name: str, rows: list[dict[str, Any]], confidence: float) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        title=f"{escape(name)}: {rows[0]['n_prompts']} prompts, {rows[0]['n']} pairs", title_justify="left"
    )
    table.add_column("reward")
    for column in (
        "base",
        "tuned",
        f"difference [{confidence:.0%}]",
        "effect",
        f"win rate [{confidence:.0%}]",
        "ties",
    ):
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(
            escape(row["reward"]) + (" (target)" if row["is_target"] else ""),
            f"{row['base_mean']:.4f}",
            f"{row['tuned_mean']:.4f}",
            f"{row['difference']:+.4f} {_interval(row, 'difference', '+.4f')}",
            "–" if row["effect"] is None else f"{row['effect']:+.2f}",
            f"{row['win_rate']:.1%} {_interval(row, 'win_rate', '.1%')}",
            str(row["ties"]),
            style=_style(row),
        )
    return table


def _interval(row: dict[str, Any], column: str, style: str) -> str:
    low, high = row[f"{column}_low"], row[f"{column}_high"]
    return "\\[–]" if low is None or high is None else f"\\[{low:{style}}, {high:{style}}]"


def _style(row: dict[str, Any]) -> str:
    """Green above and red below zero where the whole interval is; bold for the target."""
    low, high = row["difference_low"], row["difference_high"]
    colour = "green" if low is not None and low > 0 else "red" if high is not None and high < 0 else ""
    return f"bold {colour}".strip() if row["is_target"] else colour


def _notes(rows: list[dict[str, Any]]) -> list[str]:
    excluded = max(row["n_excluded"] for row in rows)
    notes = [
        "Effect: difference in standard deviations of the base model. A win is strict; ties count for nobody."
    ]
    if excluded:
        notes.append(f"{excluded} samples without a score on one of the sides were left out of the pairs.")
    return notes
