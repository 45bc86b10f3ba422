"""Outside text (prompts, names, titles) as Markdown that shows it and does nothing else, and tables of it.

A card is rendered by a web page: a prompt must not become a heading, a link, a picture, HTML or a formula there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tgo_pipeline.rendering.text import visible

CELL_LIMIT = 240
_ACTIVE = re.compile(r"([\\`*_\[\]|~#$])")
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


def text(outside: object, limit: int = CELL_LIMIT) -> str:
    """Outside text on one line, every active character escaped, control and direction characters spelled out."""
    shown = _ACTIVE.sub(r"\\\1", visible(str(outside), limit).strip())
    return _REPLACED.sub(lambda found: _ENTITIES[found[0].lower()], shown)


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
