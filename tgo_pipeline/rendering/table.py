"""A titled table of text, which every medium renders, and numbers as text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tgo_pipeline.rendering.text import MISSING

Row = Mapping[str, Any]


class Strong(str):
    """A cell that is to stand out."""


@dataclass(frozen=True)
class Sheet:
    """A titled table of text; the first `labels` columns are names, the others numbers. `note` stands below."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    labels: int = 1
    note: str = ""


def number(value: float | None, style: str) -> str:
    """A value in a format of Python; a dash where there is no value."""
    return MISSING if value is None else f"{value:{style}}"


def interval(row: Row, name: str, style: str) -> str:
    """A value with its interval; a dash where there is no value."""
    return MISSING if row[name] is None else measured(row, name, style)


def p_text(value: float | None) -> str:
    """A p-value: `<.001` rather than many digits."""
    if value is None:
        return MISSING
    return "<.001" if value < 0.001 else f"{value:.3f}"


def decimals(base_std: float) -> int:
    """How many decimals show a thousandth of the base model's standard deviation: 2 to 8."""
    return min(8, max(2, 3 - math.floor(math.log10(base_std)))) if base_std > 0 else 4


def measured(row: Mapping[str, Any], name: str, style: str) -> str:
    """A value of an evaluation row with its interval, `+0.12 [+0.08, +0.16]`; the value alone where there is none."""
    low, high = row[f"{name}_low"], row[f"{name}_high"]
    bounds = "" if low is None or high is None else f" [{low:{style}}, {high:{style}}]"
    return number(row[name], style) + bounds


@dataclass(frozen=True)
class Document:
    """Everything about one table that is shown; the legend is a line of facts for each named thing, by section."""

    title: str
    sheets: list[Sheet]
    legend: dict[str, list[tuple[str, str]]]
