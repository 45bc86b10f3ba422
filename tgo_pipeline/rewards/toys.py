"""The small world's weights try things out and judge nothing: their columns say so wherever people read their names.

Tables keep the names of their columns; `ShownNames` is for what is printed, drawn or exported from them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tgo_pipeline.rewards.files.layouts import DEMO


def is_toy(source: str | None) -> bool:
    """Whether a reward has the weights of the small world."""
    return source == DEMO


def shown_name(column: str, source: str | None) -> str:
    """The name of a column for people: that of a toy says so."""
    return f"{column} (demo)" if is_toy(source) else column


def meaning(about: Mapping[str, Any]) -> str:
    """The scale of a score column in words, with the range where official weights usually score; empty if open."""
    if about.get("typical_range") is None or is_toy(about.get("source")):
        return about.get("scale", "")
    low, high = about["typical_range"]
    return f"{about['scale']}; usually {low:g} to {high:g}"


@dataclass(frozen=True)
class ShownNames:
    """Names of score columns for people; what is shown already stays as it is."""

    toys: frozenset[str] = frozenset()

    @classmethod
    def of(
        cls, sources: Mapping[str, str | None], combined: Mapping[str, Sequence[str]] | None = None
    ) -> ShownNames:
        """Of columns and where their weights come from; what is `combined` from toys alone is one too."""
        toys = {name for name, source in sources.items() if is_toy(source)}
        toys |= {name for name, parts in (combined or {}).items() if parts and toys.issuperset(parts)}
        return cls(frozenset(toys))

    def __call__(self, name: str) -> str:
        return shown_name(name, DEMO if name in self.toys else None)

    def text(self, prose: str) -> str:
        """A sentence with the names in it as they are shown."""
        if not self.toys:
            return prose
        names = "|".join(map(re.escape, self.toys))
        return re.sub(
            rf"(?<![\w.-])(?:{names})(?![\w/-]|\.\w| \(demo\))", lambda found: self(found[0]), prose
        )

    def rows(self, rows: Sequence[Mapping[str, Any]], *keys: str) -> list[dict[str, Any]]:
        """Rows whose `keys` hold names of columns."""
        return [{**row, **{key: self(row[key]) for key in keys}} for row in rows]
