"""Tables for the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType

WIDE = 110
"""Columns of a table that goes to a file or a pipe."""


def show(renderable: RenderableType, width: int = WIDE) -> None:
    """Print on standard output, as wide as the terminal, or `width` columns where there is none."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = width
    console.print(renderable)
