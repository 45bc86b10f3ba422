"""The seam of images that exist: a source is a sequence of rows, a row is one image with its names and its prompt."""

from __future__ import annotations

import itertools
import os
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.parquet_values import StoredValue
from tgo_pipeline.formats.remote import Remote, is_url

METADATA = tuple(f"metadata.{kind}" for kind in ("csv", "jsonl", "parquet", "tsv", "json"))
FILE_NAME = "file_name"
MODEL = "model"
END = sys.maxsize
"""Where the rows of a source end at the latest: a stream does not know before it is read."""
GAP = 256
"""So many unwanted rows are read past before a sequence is opened again behind them, which costs more."""


Content = Path | StoredValue | Remote | bytes | None
"""An image, or where it lies: a file, a place in a table, an address on the web; None where it is missing."""


class Row(NamedTuple):
    """One image.

    `image` is its name in the output of `tgo score`, `names` are further names under which a table of prompts may hold
    it, `uid` is what the source calls it (None: nothing), `model` drew it, and `path` is stored beside its bytes. Where
    no prompt is given, `captioned` says that a table lists the image with an empty one: a gap of that row alone.
    """

    place: int
    image: str
    content: Content
    prompt: str | None
    names: tuple[str, ...] = ()
    uid: str | None = None
    model: str | None = None
    path: str | None = None
    captioned: bool = False


class ImageSource(ABC):
    """Rows in a fixed order, counted from 0. Raises `TgoError` where it cannot be read."""

    files = False
    """Whether `rows` names files and reads none of them; else it reads the images themselves."""
    clips = False
    """Whether its rows are clips, with video files in the place of images."""

    @property
    @abstractmethod
    def count(self) -> int | None:
        """How many rows there are; None for a stream, whose end shows only when it is reached."""

    @abstractmethod
    def rows(self, start: int, stop: int) -> Iterator[Row]:
        """The rows from `start` to `stop` (exclusive), fewer at the end; one image in memory at a time."""

    @abstractmethod
    def labels(self, start: int, stop: int) -> Iterator[Row]:
        """The same rows without reading any image."""

    @abstractmethod
    def states(self, rows: Sequence[Row]) -> list[Any]:
        """For each row a JSON value that is another one when the bytes of its image may have changed."""

    def key(self, start: int, stop: int) -> Any:
        """The states of these rows together."""
        return self.states(list(self.labels(start, stop)))

    def at_end(self, position: int) -> bool:
        """Whether there is no row at `position`; a stream finds out by reading on."""
        return self.count is not None and position >= self.count


def are_clips(sources: Sequence[ImageSource]) -> bool:
    """Whether the rows of several sources are clips. Raises `TgoError` where some are and some are images."""
    clips = {source.clips for source in sources}
    if len(clips) > 1:
        raise TgoError("images and clips are named together: name one kind at a time.")
    return True in clips


def listing(sources: Iterable[ImageSource]) -> Iterator[tuple[ImageSource, Row]]:
    """Every row of several sources; no image is read."""
    return ((source, row) for source in sources for row in source.labels(0, END))


def states(listed: Iterable[tuple[ImageSource, Row]]) -> list[Any]:
    """The state of each of some listed rows."""
    groups = itertools.groupby(listed, lambda each: each[0])
    return [state for source, some in groups for state in source.states([row for _, row in some])]


class Cursor:
    """Reads a sequence part by part without opening it again when a part begins where the last one ended, or shortly
    after."""

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
        if self._position is not None and self._position < position <= self._position + GAP:
            ahead = position - self._position
            if sum(1 for _ in itertools.islice(self._rows, ahead)) == ahead:
                self._position = position
        if self._position != position:
            self._rows, self._position = self._open_at(position), position


def located(path: str) -> Path | Remote:
    """Where an image lies: in a file, or on the web."""
    return Remote(path) if is_url(path) else Path(path)


def picked(sources: Iterable[ImageSource], wanted: Collection[int]) -> Iterator[tuple[int, Row]]:
    """Some rows by their number over all sources, in order; of a stream everything before them is read too."""
    first, last = 0, max(wanted, default=-1)
    for source in sources:
        count, seen = source.count, 0
        if count is None:
            for seen, row in enumerate(source.rows(0, last - first + 1), start=1):
                if first + seen - 1 in wanted:
                    yield first + seen - 1, row
        else:
            for number in sorted(number for number in wanted if first <= number < first + count):
                yield from ((number, row) for row in source.rows(number - first, number - first + 1))
        first += seen if count is None else count
        if first > last:
            return


def printable(path: str) -> str:
    """A path as text: bytes that are no UTF-8 are written as `\\xe9`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def date(path: str | None) -> tuple[int, int] | None:
    """Size in bytes and time of change of a file; None if it cannot be seen."""
    try:
        stat = os.stat(path) if path else None
    except OSError:
        return None
    return (stat.st_size, stat.st_mtime_ns) if stat else None


def file_states(rows: Sequence[Row], file_of: Callable[[Row], tuple[int | None, str | None]]) -> list[Any]:
    """Row in its file (None for a file of its own), and the file's name, size and time of change."""
    dated = cache(lambda path: (os.path.basename(path), *seen) if (seen := date(path)) else None)
    return [[row, dated(path)] for row, path in map(file_of, rows)]
