"""The findings as text for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Group as Lines
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

from tgo_pipeline.doctor.examine import FindingGroup
from tgo_pipeline.doctor.findings import Finding

WIDTH = 100
"""Columns where there is no terminal: what logs and mails show without wrapping."""
STYLES = {"ok": "green", "note": "cyan", "warn": "yellow", "fail": "bold red"}


def failed(groups: Sequence[FindingGroup]) -> bool:
    """Whether anything would keep a run from working."""
    return any(finding.level == "fail" for group in groups for finding in group.findings)


def show(groups: Sequence[FindingGroup]) -> RenderableType:
    """A heading and a line for each finding, group by group, then how many there are of each kind."""
    parts: list[RenderableType] = []
    for group in groups:
        parts += [Text(group.title, style="bold"), _lines(group.findings), Text()]
    return Lines(*parts, Text(summary(groups)))


def _lines(findings: Sequence[Finding]) -> Table:
    lines = Table.grid(padding=(0, 1))
    lines.add_column(width=6, justify="right")
    lines.add_column(overflow="fold")
    for finding in findings:
        said = Text.assemble((finding.subject, "bold"), ": ", _printable(finding.message))
        lines.add_row(Text(finding.level, style=STYLES[finding.level]), said)
    return lines


def _printable(text: str) -> str:
    """One line; what a file name may hold to move the cursor is shown as its escape."""
    flat = " ".join(text.split())
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in flat)


def summary(groups: Sequence[FindingGroup]) -> str:
    """How many findings there are of each kind, and what that means."""
    counts = Counter(finding.level for group in groups for finding in group.findings)
    parts = [f"{counts[level]} {level}" for level in ("fail", "warn", "note", "ok") if counts[level]]
    verdict = "Fix what fails, then run `tgo doctor` again." if counts["fail"] else "Nothing fails."
    return f"{', '.join(parts)}. {verdict}"
