"""Images of a Hugging Face data set, streamed: nothing is downloaded beforehand, nothing is kept."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from typing import Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.images.base import MODEL, Cursor, ImageSource, Row
from tgo_pipeline.images.columns import CLIP_COLUMNS, IMAGE_OPTION, Columns
from tgo_pipeline.images.tables import ID, UIDS, given, label_columns
from tgo_pipeline.reading.hub_rows import HubRows
from tgo_pipeline.reading.tables import as_name

STREAMED = ("hf://", "zip://", "tar://", "gzip://")
"""How the paths of images begin that `datasets` streams from files and archives of a repository."""


class HubImages(ImageSource):
    """One split of a data set. Raises `TgoError` as `HubRows` does, and without the columns."""

    def __init__(self, text: str, columns: Columns) -> None:
        self._hub = HubRows(text)
        self._image = columns.image_in(text, self._hub.names)
        self.clips = self._image in CLIP_COLUMNS
        self._prompt = columns.prompt_in(text, self._hub.names)
        labels = label_columns(self._prompt, self._hub.names)
        everything = list(dict.fromkeys([self._image, *labels]))
        self._all = Cursor(lambda start: self._rows(start, everything))
        self._labels = Cursor(lambda start: self._rows(start, labels or everything))

    @property
    def count(self) -> None:
        return None

    def rows(self, start: int, stop: int) -> Iterator[Row]:
        return self._all.take(start, stop)

    def labels(self, start: int, stop: int) -> Iterator[Row]:
        return self._labels.take(start, stop)

    def states(self, rows: Sequence[Row]) -> list[Any]:
        return [[*self._hub.address, row.place] for row in rows]

    def key(self, start: int, stop: int) -> Any:
        return [*self._hub.address, self._image, self._prompt, start, stop]

    def at_end(self, position: int) -> bool:
        """Whether the stream has no row at `position`."""
        return self._all.at_end(position)

    def _rows(self, start: int, columns: Sequence[str]) -> Iterator[Row]:
        for number, record in enumerate(self._hub.records(start, columns), start):
            where = f"{self._hub.text}, row {number}"
            name = given(as_name(where, ID, record.get(ID))) or f"{self._hub.text}:{number}"
            path, data = self._content(number, record.get(self._image))
            uids = (given(as_name(where, key, record.get(key))) for key in UIDS if key != self._image)
            yield Row(
                number,
                name,
                data,
                record[self._prompt] if self._prompt else None,
                (path,) if path else (),
                uid=next(filter(None, uids), name),
                model=as_name(where, MODEL, record.get(MODEL)),
                path=path,
                captioned=self._prompt is not None,
            )

    def _content(self, number: int, value: Any) -> tuple[str | None, bytes | None]:
        """The path that a cell of the image column names, and its bytes, read from where the data set is if need be."""
        if not isinstance(value, dict):
            if value is None or isinstance(value, bytes):
                return None, value
            raise TgoError(
                f"{self._hub.text}, row {number}: the image column holds {type(value).__name__}, not an image: name "
                f"another one ({IMAGE_OPTION})."
            )
        path, data = value.get("path"), value.get("bytes")
        if data is None and path and self._is_its_own(path):
            with self._hub.explained():
                data = _read(path)
        return path, data

    def _is_its_own(self, path: str) -> bool:
        """Whether a path leads into a repository, and not to a file of this machine that rows of others name."""
        return path.startswith(STREAMED) or os.path.isdir(self._hub.address.repository)


def _read(path: str) -> bytes | None:
    import fsspec

    try:
        with fsspec.open(path, "rb") as stream:
            return stream.read()  # type: ignore[union-attr]
    except FileNotFoundError:
        return None
