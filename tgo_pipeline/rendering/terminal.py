"""Tables on a terminal."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from tgo_pipeline.rendering.table import Sheet

WIDE = 110
"""Columns of a table that goes to a file or a pipe."""


def sheet_parts(sheet: Sheet, styles: Sequence[str] = ()) -> list[Table | str]:
    """A sheet as a table, its rows in `styles`, and its note below."""
    from rich.markup import escape
    from rich.table import Table

    from tgo_pipeline.rendering.table import Strong
    from tgo_pipeline.rendering.text import one_line

    table = Table(title=escape(one_line(sheet.title, None)), title_justify="left")
    for place, column in enumerate(sheet.columns):
        table.add_column(escape(one_line(column)), justify="left" if place < sheet.labels else "right")
    for row, style in itertools.zip_longest(sheet.rows, styles):
        cells = [escape(one_line(cell)) for cell in row]
        table.add_row(
            *(f"[bold]{c}[/]" if isinstance(r, Strong) else c for c, r in zip(cells, row, strict=True)),
            style=style,
        )
    return [table, *([escape(sheet.note)] if sheet.note else [])]


def show(renderable: RenderableType, width: int = WIDE) -> None:
    """Print on standard output, as wide as the terminal, or `width` columns where there is none."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = width
    console.print(renderable)
