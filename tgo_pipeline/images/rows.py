"""The seam of the inputs: a source is a sequence of rows, a row is one picture with its name and its own prompt."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple


class Row(NamedTuple):
    """One picture; `names` are further names under which a table of prompts may hold it."""

    image: str
    content: Path | bytes | None
    prompt: str | None
    names: tuple[str, ...] = ()


class Source(ABC):
    """Rows in a fixed order; `count` is None for a stream, whose end shows only when it is reached."""

    count: int | None
    files = False
    """Whether `rows` names files and reads none of them; else it reads the images themselves."""

    @abstractmethod
    def rows(self, start: int, stop: int) -> Iterator[Row]:
        """The rows from `start` to `stop` (exclusive), fewer at the end; one picture in memory at a time."""

    @abstractmethod
    def labels(self, start: int, stop: int) -> Iterator[Row]:
        """The same rows without reading any picture. Not for a stream."""

    @abstractmethod
    def key(self, start: int, stop: int) -> Any:
        """A JSON value that is another one when the pictures of these rows may have changed."""

    def at_end(self, position: int) -> bool:
        """Whether there is no row at `position`; a stream finds out by reading on."""
        return self.count is not None and position >= self.count


class Cursor:
    """Reads a sequence part by part without opening it again when a part begins where the last one ended."""

    def __init__(self, open_at: Callable[[int], Iterator[Row]]) -> None:
        self._open_at = open_at
        self._position: int | None = None
        self._end: int | None = None  # nothing follows there; rows before it may be missing too
        self._rows: Iterator[Row] = iter(())

    def take(self, start: int, stop: int) -> Iterator[Row]:
        """The rows from `start` to `stop`, fewer where the sequence ends."""
        self._seek(start)
        for position in range(start, stop):
            row = next(self._rows, None)
            if row is None:
                self._end = position
                return
            self._position = position + 1
            yield row

    def at_end(self, position: int) -> bool:
        """Whether nothing follows at `position`; the row that was read to know it is not lost."""
        if self._end is not None and position >= self._end:
            return True
        self._seek(position)
        row = next(self._rows, None)
        if row is None:
            self._end = position
            return True
        self._rows = itertools.chain([row], self._rows)
        return False

    def _seek(self, position: int) -> None:
        if self._position != position:
            self._rows, self._position = self._open_at(position), position
