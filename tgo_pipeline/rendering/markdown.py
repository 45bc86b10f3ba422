"""Sheets as Markdown with tables, as GitHub and most readers show them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tgo_pipeline.evaluation.plain import one_line
from tgo_pipeline.rendering.table import Sheet, Strong

if TYPE_CHECKING:
    from tgo_pipeline.rendering.table import Document

_SPECIAL = re.compile(r"([\\`*_<>|~$&]|\](?=[(\[]))")
"""Characters that begin mark-up, HTML, another cell or mathematics; brackets are harmless unless a link follows."""


def escape(text: str) -> str:
    """Text that stands for itself: no mark-up, no HTML, no end of a cell, no line break; cut to `LIMIT`."""
    return _SPECIAL.sub(_escaped, one_line(text))


def _escaped(found: re.Match[str]) -> str:
    character = found[1]
    return {"<": "&lt;", ">": "&gt;", "&": "&amp;"}.get(character, f"\\{character}")


def render(document: Document) -> str:
    """The whole document: its title, every sheet, the legend."""
    parts = [f"# {escape(document.title)}", *map(_sheet, document.sheets), "## Legend"]
    for title, things in document.legend.items():
        lines = [f"- **{escape(name)}**: {escape_long(facts)}" for name, facts in things]
        parts.append(f"**{escape(title)}**\n\n" + "\n".join(lines))
    return "\n\n".join(parts) + "\n"


def escape_long(text: str) -> str:
    """`escape` without a limit, for the facts of a legend."""
    return _SPECIAL.sub(_escaped, one_line(text, limit=None))


def _sheet(sheet: Sheet) -> str:
    align = ["---"] * sheet.labels + ["---:"] * (len(sheet.columns) - sheet.labels)
    lines = [
        [escape(name) for name in sheet.columns],
        align,
        *([_cell(c) for c in row] for row in sheet.rows),
    ]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    note = f"\n\n{escape_long(sheet.note)}" if sheet.note else ""
    return f"## {escape_long(sheet.title)}\n\n{table}{note}"


def _cell(text: str) -> str:
    return f"**{escape(text)}**" if isinstance(text, Strong) else escape(text)
