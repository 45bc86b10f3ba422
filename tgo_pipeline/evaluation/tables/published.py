"""Numbers that papers report, shown next to ours on demand; they are in published.yaml, with what is known of them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params.parsing import read_data
from tgo_pipeline.rendering.table import Sheet
from tgo_pipeline.rendering.text import MISSING

FILE = Path(__file__).with_name("published.yaml")
WIDE = 7
"""Columns that a sheet of a block has at most, unless they are all of one test set."""


@dataclass(frozen=True)
class Block:
    """One published table or a part of it: `values` has a row per method and a column per reward of a test set.

    `table` is the table of ours that it stands next to: `models` for mean scores, `matrix` for win rates in percent.
    """

    table: Literal["models", "matrix"]
    title: str
    source: str
    caveats: str
    columns: dict[str, list[str]]
    values: dict[str, list[float | None]]
    digits: list[int]

    def __post_init__(self) -> None:
        count = len(self.places)
        for name, row in {**self.values, "digits": self.digits}.items():
            if len(row) != count:
                raise TgoError(f"{self.title!r} has {count} columns, and {len(row)} entries for {name}.")

    @property
    def places(self) -> list[tuple[str, str]]:
        """The test set and the reward of each column."""
        return [(name, reward) for name, rewards in self.columns.items() for reward in rewards]


@dataclass(frozen=True)
class _File:
    blocks: list[Block]


@functools.cache
def _file() -> _File:
    return read_data(FILE, _File)


def blocks() -> Sequence[Block]:
    """All that is published, in the order of the file."""
    return _file().blocks


def sheets(table: str, rewards: Sequence[str]) -> list[Sheet]:
    """The published numbers that belong next to one of our tables, as far as they are of `rewards` (canonical names).

    A block whose rewards are not named exactly (an average, `hpsv2` without a version) is shown where any of its
    columns may be meant; columns of rewards that are not evaluated are left out.
    """
    found = [(block, _places(block, rewards)) for block in blocks() if block.table == table]
    return [_sheet(block, part) for block, places in found for part in _parts(block, places)]


def _parts(block: Block, places: Sequence[int]) -> list[list[int]]:
    """The columns of a block as one sheet, or one for each test set where they are many."""
    if len(places) <= WIDE:
        return [list(places)] if places else []
    sets = dict.fromkeys(block.places[place][0] for place in places)
    return [[place for place in places if block.places[place][0] == name] for name in sets]


def _places(block: Block, rewards: Sequence[str]) -> list[int]:
    return [place for place, (_, name) in enumerate(block.places) if _may_be(name, rewards)]


def _may_be(printed: str, rewards: Sequence[str]) -> bool:
    name = printed.split(" (")[0]
    return name.startswith("average") or any(
        reward == name or reward.startswith(f"{name}/") or (name == "hpsv2" and reward.startswith("hpsv2."))
        for reward in rewards
    )


def _sheet(block: Block, places: Sequence[int]) -> Sheet:
    def cell(values: Sequence[float | None], place: int) -> str:
        value = values[place]
        return MISSING if value is None else f"{value:.{block.digits[place]}f}"

    return Sheet(
        title=f"Published, not measured here: {block.title}",
        columns=("Method (published)", *(" ".join(block.places[place]) for place in places)),
        rows=[
            [method, *(cell(values, place) for place in places)] for method, values in block.values.items()
        ],
        note=f"Published by {block.source}. {block.caveats}",
    )
