"""Markdown: sheets as tables, and outside text (prompts, names, titles) that shows itself and does nothing else.

A card is rendered by a web page: a prompt must not become a heading, a link, an image, HTML or a formula there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from tgo_pipeline.rendering.table import Sheet, Strong
from tgo_pipeline.rendering.text import NAME_LIMIT, one_line, visible

if TYPE_CHECKING:
    from tgo_pipeline.rendering.table import Document

CELL_LIMIT = 240  # characters of outside text in a cell: about three lines of a rendered card
_ACTIVE = re.compile(r"([\\`*_|~#$]|\](?=[(\[:]))")
"""Characters that begin mark-up, another cell or mathematics; brackets only where a link or its target follows."""
_ENTITIES = {
    "&": "&amp;",
    "<": "&lt;",
    ">": "&gt;",
    '"': "&quot;",
    "@": "&#64;",  # a mention, or a mail address
    "://": "&#58;//",  # an address becomes a link by itself
    "www.": "www&#46;",
}
_REPLACED = re.compile("|".join(map(re.escape, _ENTITIES)), re.IGNORECASE)


def escape(name: str, limit: int | None = NAME_LIMIT) -> str:
    """A name that stands for itself: no mark-up, no HTML, no end of a cell, no line break; cut to `limit`."""
    return _inactive(one_line(name, limit))


def render(document: Document) -> str:
    """The whole document: its title, every sheet, the legend."""
    parts = [f"# {escape(document.title)}", *map(_sheet, document.sheets), "## Legend"]
    for title, things in document.legend.items():
        lines = [f"- **{escape(name)}**: {escape(facts, None)}" for name, facts in things]
        parts.append(f"**{escape(title)}**\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def _sheet(sheet: Sheet) -> str:
    align = ["---"] * sheet.labels + ["---:"] * (len(sheet.columns) - sheet.labels)
    lines = [
        [escape(name) for name in sheet.columns],
        align,
        *([_cell(c) for c in row] for row in sheet.rows),
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    note = f"\n\n{escape(sheet.note, None)}" if sheet.note else ""
    return f"## {escape(sheet.title, None)}\n\n{table}{note}"


def _cell(text: str) -> str:
    return f"**{escape(text)}**" if isinstance(text, Strong) else escape(text)


def text(outside: object, limit: int = CELL_LIMIT) -> str:
    """Outside text on one line, every active character escaped, control and direction characters spelled out."""
    return _inactive(visible(str(outside), limit).strip())


def _inactive(shown: str) -> str:
    escaped = _ACTIVE.sub(r"\\\1", shown)
    return _REPLACED.sub(lambda found: _ENTITIES[found[0].lower()], escaped)


def code(outside: object, limit: int = CELL_LIMIT) -> str:
    """Outside text in the typeface of code; HTML, since a pipe or backtick cannot be escaped in Markdown's own."""
    return f"<code>{text(outside, limit)}</code>"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], numbers: Sequence[int] = ()) -> str:
    """A table of cells that are Markdown already; the columns in `numbers` are set to the right."""
    ruler = ["---:" if column in numbers else "---" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ruler, *rows))


def bullets(lines: Iterable[str]) -> str:
    """A list of lines that are Markdown already."""
    return "\n".join(f"- {line}" for line in lines)


def fenced(content: str, language: str) -> str:
    """A block of code, its fence longer than any that the content has."""
    longest = max((len(run) for run in re.findall(r"`+", content)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{content.rstrip()}\n{fence}"
