"""Images of a public data set: a run reads each of them once, a resumed run only those that are missing."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tgo_pipeline.datasets import Dataset
from tgo_pipeline.images.base import END, Cursor, ImageSource, Row

if TYPE_CHECKING:
    import pyarrow as pa


class DatasetImages(ImageSource):
    """The images of a data set in the order of its listing."""

    def __init__(self, dataset: Dataset) -> None:
        self._dataset = dataset
        self._listing = Cursor(lambda start: itertools.islice(self._rows(dataset.listing()), start, None))
        self._images = Cursor(lambda start: self._rows(dataset.images(start), start))

    @property
    def count(self) -> int:
        return len(self._listed)

    def rows(self, start: int, stop: int) -> Iterator[Row]:
        return self._images.take(start, stop)

    def labels(self, start: int, stop: int) -> Iterator[Row]:
        if stop == END:  # the reader may stop early, so that the rest is not even listed
            return self._listing.take(start, stop)
        return iter(self._listed[start:stop])

    def states(self, rows: Sequence[Row]) -> list[Any]:
        dates = self._dataset.dates([str(row.uid) for row in rows])
        return [[self._identity, date] for date in dates or [None] * len(rows)]

    @cached_property
    def _listed(self) -> list[Row]:
        return list(self.labels(0, END))

    @cached_property
    def _identity(self) -> str:
        return self._dataset.identity()

    def _rows(self, batches: Iterable[pa.RecordBatch], start: int = 0) -> Iterator[Row]:
        records = (row for batch in batches for row in batch.to_pylist())
        for place, record in enumerate(records, start):
            image, uid = record.get("image") or {}, record["image_uid"]
            name = str(uid or f"{self._dataset.address}:{place}")
            yield Row(
                place,
                name,
                image.get("bytes"),
                record["prompt"],
                uid=uid,
                model=record["model"],
                path=image.get("path"),
                captioned=True,
            )
