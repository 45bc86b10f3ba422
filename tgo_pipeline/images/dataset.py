"""Images of a public data set, streamed: a run reads each of them once, a resumed run only those that are missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any

from tgo_pipeline.datasets import Dataset
from tgo_pipeline.errors import TgoError
from tgo_pipeline.images.base import Entry, ImageSource, Picture

GAP = 64
"""So many unwanted images are read past before the stream is opened anew behind them."""


class StreamedImages(ImageSource):
    """The images of a data set; `at` is the position in its listing."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._rows: Iterator[dict[str, Any]] = iter(())
        self._next: int | None = None

    @cached_property
    def _identity(self) -> str:
        return self._dataset.identity()

    def entries(self) -> Iterator[Entry]:
        position = 0
        for batch in self._dataset.listing():
            for row in batch.to_pylist():
                yield Entry(row["prompt"], row["image_uid"], row["model"], position)
                position += 1

    def states(self, entries: Sequence[Entry]) -> list[Any]:
        dates = self._dataset.dates([str(entry.uid) for entry in entries])
        return [[self._identity, date] for date in dates or [None] * len(entries)]

    def pictures(self, entries: Sequence[Entry]) -> Iterator[Picture]:
        for entry in entries:
            row = self._at(entry.at)
            if row is None or row["image_uid"] != entry.uid:
                raise TgoError(
                    f"{self._dataset.address} no longer has the image {entry.uid!r} where it listed it: it has changed "
                    "meanwhile; run again."
                )
            image = row["image"] or {"bytes": None, "path": None}
            yield Picture(image["bytes"], image["path"])

    def _at(self, position: int) -> dict[str, Any] | None:
        if self._next is None or not self._next <= position <= self._next + GAP:
            batches = self._dataset.images(position)
            self._rows = (row for batch in batches for row in batch.to_pylist())
            self._next = position
        row = None
        while self._next <= position:
            row = next(self._rows, None)
            self._next += 1
        return row
