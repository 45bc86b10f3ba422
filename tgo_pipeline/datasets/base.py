"""What a preference data set or a prompt set offers, as streams of Arrow batches."""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.reading.places import Place
from tgo_pipeline.storage.fingerprints import fingerprint

if TYPE_CHECKING:
    import pyarrow as pa

ROWS = 4096
"""Rows of a batch without images: some hundred bytes each, so that a batch is about a megabyte."""


class Dataset(ABC):
    """One data set at one place. Every stream reads again from the start and holds only a few rows at a time.

    A stream raises `TgoError` if a file is missing or broken, if a column is missing (it is named, with the columns
    that are there), or if the data set has nothing of the kind.
    """

    title: str
    """What people call it."""
    markers: Sequence[str]
    """Patterns of files that a local copy has: a last part of the address that has none of them names a split."""

    def __init__(self, address: str, place: Place, split: str | None) -> None:
        self.address = address
        self.place = place
        self.split = split
        self.own_identity: str | None = None
        """Of a reader of one's own, which need not say what its content depends on."""

    @abstractmethod
    def prompts(self) -> Iterator[pa.RecordBatch]:
        """The prompts in the order of the files, repetitions included (schema `PROMPT_ROWS`)."""

    def listing(self) -> Iterator[pa.RecordBatch]:
        """The images in order, each once per uid and prompt, without reading any image (schema `LISTING`)."""
        raise self._lacks("images")

    def images(self, start: int = 0) -> Iterator[pa.RecordBatch]:
        """What `listing` lists from row `start` on, with the images (schema `IMAGE_ROWS`)."""
        raise self._lacks("images")

    def comparisons(self) -> Iterator[pa.RecordBatch]:
        """The choices between two images (schema `COMPARISONS`)."""
        raise self._lacks("comparisons of images")

    def ratings(self) -> Iterator[pa.RecordBatch]:
        """The ratings of single images (schema `RATINGS`)."""
        raise self._lacks("ratings of images")

    @abstractmethod
    def files(self) -> list[str]:
        """The files that are read, relative to the place. Raises `TgoError` if there are none."""

    def identity(self) -> str:
        """What the content depends on, as a short hash: the revision on the hub, or size and date of every file."""
        return self.own_identity or fingerprint(
            reader=type(self).__name__, split=self.split, files=self.place.identity(self.files())
        )

    def dates(self, uids: Sequence[str]) -> list[Any] | None:
        """Size and date of the file of each image; None where `identity` covers the images too."""
        return None

    def _lacks(self, what: str) -> TgoError:
        return TgoError(f"{self.address} has no {what}: {self.title} does not come with them.")

    def _batches(
        self, rows: Iterable[Mapping[str, Any]], schema: pa.Schema, size: int = ROWS
    ) -> Iterator[pa.RecordBatch]:
        """Pack rows into batches of `schema`; a key that a row lacks is null. Raises `TgoError` on a wrong type."""
        import pyarrow as pa

        stream = iter(rows)
        while held := list(itertools.islice(stream, size)):
            try:
                yield pa.RecordBatch.from_pylist(held, schema=schema)
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise TgoError(
                    f"{self.address}: a value is of another type than expected: {error}."
                ) from error
