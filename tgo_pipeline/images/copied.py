"""Images of an object store, read from a copy and called as they are there."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from tgo_pipeline.images.base import ImageSource, Row, printable


class CopiedImages(ImageSource):
    """The rows of a source whose files are below `copy`, by names below `address`."""

    def __init__(self, source: ImageSource, copy: str, address: str) -> None:
        self._source, self._copy, self._address = source, printable(copy), address
        self.files, self.clips = source.files, source.clips

    @property
    def count(self) -> int | None:
        return self._source.count

    def rows(self, start: int, stop: int) -> Iterator[Row]:
        return map(self._named, self._source.rows(start, stop))

    def labels(self, start: int, stop: int) -> Iterator[Row]:
        return map(self._named, self._source.labels(start, stop))

    def states(self, rows: Sequence[Row]) -> list[Any]:
        return self._source.states(rows)

    def key(self, start: int, stop: int) -> Any:
        return self._source.key(start, stop)

    def at_end(self, position: int) -> bool:
        """Whether there is no row at `position`."""
        return self._source.at_end(position)

    def _named(self, row: Row) -> Row:
        return row._replace(image=self._there(row.image), uid=row.uid and self._there(row.uid))

    def _there(self, name: str) -> str:
        inside = name == self._copy or name.startswith((f"{self._copy}/", f"{self._copy}:"))
        return self._address + name[len(self._copy) :] if inside else name
