"""Csv that people open: a spreadsheet runs no cell of text as a formula, a terminal none of its characters."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from tgo_pipeline.rendering.text import visible

_FORMULA = re.compile(r"[=+\-@\t\r\n|]|['\"]*[=+@]")
"""How a cell begins that a spreadsheet would run."""
_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?|[-+]?(inf|nan)|-")


def cell(value: Any) -> Any:
    """A value as csv holds it: text that would run as a formula begins with an apostrophe, which a spreadsheet hides.

    Numbers stay numbers. Control and direction characters are spelled out.
    """
    if not isinstance(value, str):
        return value
    shown = visible(value, len(value))
    runs = _FORMULA.match(value) and not _NUMBER.fullmatch(value)
    return f"'{shown}" if runs else shown


def written(columns: Sequence[str], rows: Iterable[Sequence[Any]], end: str = "\n") -> str:
    """A csv of a header and rows; null is empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator=end)
    writer.writerow([cell(name) for name in columns])
    writer.writerows([cell(value) for value in row] for row in rows)
    return stream.getvalue()
