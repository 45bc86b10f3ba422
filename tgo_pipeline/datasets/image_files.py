"""Data sets whose rows name image files: the rows can be anywhere, the files are in a folder of this machine."""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from tgo_pipeline.datasets.base import Dataset
from tgo_pipeline.datasets.schemas import IMAGE_ROWS, LISTING
from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.spelling import slashes
from tgo_pipeline.reading.deduplicate import first
from tgo_pipeline.reading.parquet import ROWS_AT_ONCE
from tgo_pipeline.reading.places import Folder

if TYPE_CHECKING:
    import pyarrow as pa

PROBED = 100
"""How many files are looked for before it is said that none is there: enough to show a wrong folder."""


class ImageFiles(Dataset):
    """A data set whose image uids are file names, relative to the folder or to one that the archives unpack into."""

    how_to_get: str
    """What to do when the files are not there."""

    @property
    def folders(self) -> Sequence[str]:
        """Where the files may lie, below the folder that was given."""
        return "", "images"

    @abstractmethod
    def _rows(self) -> Iterator[Mapping[str, Any]]:
        """Every mention of an image, with the keys of `LISTING`."""

    def listing(self) -> Iterator[pa.RecordBatch]:
        return self._batches(self._images(), LISTING)

    def images(self, start: int = 0) -> Iterator[pa.RecordBatch]:
        folder, below = self._folder
        rows = itertools.islice(self._images(), start, None)
        return self._batches(
            (row | {"image": _read(folder, below, row["image_uid"])} for row in rows),
            IMAGE_ROWS,
            ROWS_AT_ONCE,
        )

    def dates(self, uids: Sequence[str]) -> list[Any]:
        folder, below = self._folder
        return [folder.date(str(PurePosixPath(below, _inside(uid)))) for uid in uids]

    def _images(self) -> Iterator[dict[str, Any]]:
        return first(self._rows())

    @cached_property
    def _folder(self) -> tuple[Folder, str]:
        """The folder, and where below it the files are. Raises `TgoError` if none of the first ones is there."""
        if not isinstance(self.place, Folder):
            raise TgoError(
                f"{self.address} has its images in archives, which cannot be streamed. {self.how_to_get}"
            )
        names = [_inside(row["image_uid"]) for row in itertools.islice(self._images(), PROBED)]
        for below in self.folders:
            if any(self.place.date(str(PurePosixPath(below, name))) for name in names):
                return self.place, below
        looked = f" (looked for {self.place.where(names[0])} and others)" if names else ""
        raise TgoError(f"{self.address}: no image is there{looked}. {self.how_to_get}")


def pairs(names: Sequence[str], values: Sequence[float]) -> Iterator[dict[str, Any]]:
    """The comparisons that values of several images imply: the higher value is preferred, equal ones are a tie."""
    for (name_0, value_0), (name_1, value_1) in itertools.combinations(zip(names, values, strict=True), 2):
        label_0 = 0.5 if value_0 == value_1 else float(value_0 > value_1)
        yield {"image_0_uid": name_0, "image_1_uid": name_1, "label_0": label_0, "label_1": 1 - label_0}


def _read(folder: Folder, below: str, uid: str) -> dict[str, Any] | None:
    data = folder.read(str(PurePosixPath(below, _inside(uid))))
    return None if data is None else {"bytes": data, "path": PurePosixPath(uid).name}


def _inside(name: Any) -> str:
    path = PurePosixPath(slashes(name)) if isinstance(name, str) and name else None
    if path is None or path.is_absolute() or ".." in path.parts:
        raise TgoError(f"{name!r} names no image file below the folder of the data set.")
    return name
