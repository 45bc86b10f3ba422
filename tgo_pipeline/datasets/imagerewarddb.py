"""ImageRewardDB: four to nine images a prompt, rated and ranked by experts (Xu et al. 2023, `THUDM/ImageRewardDB`).

`metadata-<split>.parquet` has a row an image; the images are in zip archives, `images/<split>/<split>_<n>.zip`, read
as they are (on the hub in ranges) or unpacked beside them.
"""

from __future__ import annotations

import contextlib
import itertools
import zipfile
import zlib
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any, NamedTuple

from tgo_pipeline.datasets.base import ROWS, Dataset
from tgo_pipeline.datasets.image_files import pairs
from tgo_pipeline.datasets.schemas import COMPARISONS, IMAGE_ROWS, LISTING, PROMPT_ROWS, RATINGS
from tgo_pipeline.errors import TgoError
from tgo_pipeline.reading import parquet
from tgo_pipeline.reading.places import Folder

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = {
    "image_path": "string",
    "prompt_id": "string",
    "prompt": "string",
    "classification": "string",
    "rank": "double",
    "overall_rating": "double",
}
"""Names, and Arrow types that they are read as."""
MISSING = "Download images/ of THUDM/ImageRewardDB (zip archives) beside the metadata, or name the data set on the hub."


class RankedImage(NamedTuple):
    """One image; rank 1 is the best of its prompt, ratings go from 1 to 7."""

    image_path: str
    prompt_id: str | None
    prompt: str | None
    classification: str | None
    rank: float | None
    overall_rating: float | None

    @property
    def uid(self) -> str:
        """The file's name without its ending, which is what upstream calls the image."""
        return PurePosixPath(self.image_path).stem

    @property
    def folder(self) -> str:
        """The folder of the image within its archive."""
        return str(PurePosixPath(self.image_path).parent)


class ImageRewardDB(Dataset):
    """Ratings, comparisons by rank within a prompt, and images."""

    title = "ImageRewardDB"
    markers = ("metadata-*.parquet",)

    def files(self) -> list[str]:
        return [self._file]

    def prompts(self) -> Iterator[pa.RecordBatch]:
        rows = {row.prompt_id: {"prompt": row.prompt, "category": row.classification} for row in self._rows}
        return self._batches(rows.values(), PROMPT_ROWS)

    def ratings(self) -> Iterator[pa.RecordBatch]:
        rows = (
            {"image_uid": row.uid, "prompt": row.prompt, "value": row.overall_rating} for row in self._rows
        )
        return self._batches(rows, RATINGS)

    def comparisons(self) -> Iterator[pa.RecordBatch]:
        ranked: dict[str | None, list[tuple[RankedImage, float]]] = defaultdict(list)
        for row in self._rows:
            if row.rank is not None:
                ranked[row.prompt_id].append((row, row.rank))
        compared = (
            pair | {"prompt": group[0][0].prompt}
            for group in ranked.values()
            for pair in pairs([row.uid for row, _ in group], [-rank for _, rank in group])
        )
        return self._batches(compared, COMPARISONS)

    def listing(self) -> Iterator[pa.RecordBatch]:
        return self._batches(map(_listed, self._rows), LISTING)

    def images(self, start: int = 0) -> Iterator[pa.RecordBatch]:
        return self._batches(self._images(self._rows[start:]), IMAGE_ROWS, parquet.ROWS_AT_ONCE)

    def dates(self, uids: Sequence[str]) -> list[Any] | None:
        if not isinstance(self.place, Folder):
            return None
        rows = [self._by_uid[uid] for uid in uids]
        return [self.place.date(row.image_path) or self.place.date(f"{row.folder}.zip") for row in rows]

    @cached_property
    def _file(self) -> str:
        names = self.place.find(f"metadata-{self.split or '*'}.parquet")
        if not names:
            raise TgoError(
                f"{self.address}: {self.place.name} has no metadata-{self.split or '<split>'}.parquet."
            )
        if len(names) > 1:
            splits = ", ".join(name.removeprefix("metadata-").removesuffix(".parquet") for name in names)
            raise TgoError(f"{self.address} has the splits {splits}: add one, as in {self.address}/train.")
        return names[0]

    @cached_property
    def _rows(self) -> list[RankedImage]:
        """All rows (62,600 at most), archive by archive."""
        rows = [
            RankedImage(*values)
            for batch in parquet.columns(self.place, self._file, list(COLUMNS), ROWS)
            for values in zip(*(self._values(batch, name) for name in COLUMNS), strict=True)
        ]
        if not all(row.image_path for row in rows):
            raise TgoError(f"{self.place.where(self._file)}: an image has no image_path.")
        return sorted(rows, key=lambda row: row.folder)

    def _values(self, batch: pa.RecordBatch, name: str) -> list[Any]:
        import pyarrow as pa

        return parquet.cast(self.address, batch, name, pa.type_for_alias(COLUMNS[name])).to_pylist()

    @cached_property
    def _by_uid(self) -> dict[str, RankedImage]:
        return {row.uid: row for row in self._rows}

    def _images(self, rows: Sequence[RankedImage]) -> Iterator[dict[str, Any]]:
        for folder, group in itertools.groupby(rows, key=lambda row: row.folder):
            with self._folder(folder) as read:
                for row in group:
                    name = PurePosixPath(row.image_path).name
                    data = read(name)
                    yield _listed(row) | {"image": None if data is None else {"bytes": data, "path": name}}

    @contextlib.contextmanager
    def _folder(self, folder: str) -> Iterator[Callable[[str], bytes | None]]:
        """How to read a file of a folder of images: unpacked where it is so on this machine, else from its archive."""
        if isinstance(self.place, Folder) and (self.place.root / folder).is_dir():
            place = self.place
            yield lambda name: place.read(f"{folder}/{name}")
            return
        archive = f"{folder}.zip"
        if not self.place.find(archive):
            raise TgoError(f"{self.address}: {self.place.name} has neither {folder} nor {archive}. {MISSING}")
        with self.place.open(archive) as stream:
            try:
                with zipfile.ZipFile(stream) as opened:
                    members = {PurePosixPath(name).name: name for name in opened.namelist()}
                    yield lambda name: opened.read(members[name]) if name in members else None
            except (zipfile.BadZipFile, zlib.error, EOFError) as error:
                raise TgoError(
                    f"{self.place.where(archive)} is not a whole archive ({error}): download it again.{self.place.hint}"
                ) from error


def _listed(row: RankedImage) -> dict[str, Any]:
    return {"image_uid": row.uid, "prompt": row.prompt}
