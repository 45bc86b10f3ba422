"""Tables and lines on a terminal, where nothing from outside acts: no escape sequence, no line of its own."""

from __future__ import annotations

import codecs
import contextlib
import itertools
import re
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from tgo_pipeline.rendering.text import visible

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from tgo_pipeline.rendering.table import Sheet

WIDE = 110
"""Columns of a table that goes to a file or a pipe: all columns of most tables without wrapped words."""
LINE_LIMIT = 4000
"""Characters of one line that is not a table."""
_SIGNS = {
    "\u2013": "-",
    "\u2212": "-",
    "\u2026": "...",
    "\u00b7": "*",
    "\u00d7": "x",
    "\u00b1": "+-",
    "\u2192": "->",
    "\u2264": "<=",
    "\u2265": ">=",
    "\u00b2": "^2",
    "\u202f": " ",
    "\u00a0": " ",
    "\u27e8": "<",
    "\u27e9": ">",
    "\u03c4": "tau",
    "\u03b2": "beta",
}
"""Signs of this package's own, as a terminal shows them that has no such letters."""
_LINES = re.compile(r"\s*[\r\n]\s*")
_ACTIVE = re.compile(
    "[\x00-\x09\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ud800-\udfff]"
)
"""Characters of a table that would act on a terminal, or hide."""


def safe(text: str, limit: int = LINE_LIMIT) -> str:
    """Text for a terminal: one line, control and direction characters spelled out, cut to `limit`."""
    return visible(_LINES.sub(" ", text), limit)


def say(line: str) -> None:
    """One line on standard error; a closed terminal hears nothing."""
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(safe(line) + "\n")
        sys.stderr.flush()


def prepare_streams() -> None:
    """Let standard output and error take every character: what their encoding lacks is written in its letters."""
    codecs.register_error("tgo", _spelled)
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="tgo")  # type: ignore[union-attr]


def _spelled(error: UnicodeError) -> tuple[str, int]:
    """What stands for characters that an encoding lacks."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    return "".join(
        _SIGNS.get(c) or c.encode("ascii", "backslashreplace").decode() for c in lacking
    ), error.end


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
    screen = console(highlight=False)
    if not screen.is_terminal:
        screen.width = width
    screen.print(renderable)


def console(**options: Any) -> Console:
    """A `rich` console on which no text acts: whatever it renders is looked through."""
    from rich.console import Console

    class Harmless(Console):
        def render(self, *arguments: Any, **named: Any) -> Iterable[Any]:
            for segment in super().render(*arguments, **named):
                acts = segment.control is None and _ACTIVE.search(segment.text)
                yield segment._replace(text=_ACTIVE.sub(_code, segment.text)) if acts else segment

    return Harmless(**options)


def _code(found: re.Match[str]) -> str:
    return visible(found[0])
