"""Images in tables: bytes or paths in Parquet and in a saved Hugging Face data set."""

from __future__ import annotations

import json
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError, in_one_line
from tgo_pipeline.images.base import (
    FILE_NAME,
    MODEL,
    Cursor,
    ImageSource,
    Row,
    date,
    file_states,
    printable,
)
from tgo_pipeline.images.columns import IMAGE_OPTION, PROMPT_OPTION, Columns
from tgo_pipeline.images.files import PROBED, require_inside, require_some
from tgo_pipeline.reading import parquet

if TYPE_CHECKING:
    import pyarrow as pa

ID = "sample_id"
"""The column by which this project's tables name an image; rows of other tables are named FILE:ROW."""
UIDS = ("image_uid", FILE_NAME)
"""Columns that may say what the source calls an image."""
SAVED = "state.json"
"""What `Dataset.save_to_disk` writes last into its folder: names of its Arrow files."""
SAVED_SPLITS = "dataset_dict.json"


def label_columns(prompt: str | None, names: Sequence[str]) -> list[str]:
    """The columns of a table that say what an image is: its prompt, its names and the model that drew it."""
    return [name for name in dict.fromkeys((prompt, ID, *UIDS, MODEL)) if name is not None and name in names]


class ImageTable(ImageSource):
    """Rows of a columnar file: an image column of bytes, of Hugging Face's struct, or of paths."""

    def __init__(self, path: str, schema: pa.Schema, count: int, columns: Columns) -> None:
        self._count = count
        self._path = path
        self._importing = columns.importing
        self._image = columns.image_in(path, schema.names)
        self._prompt = columns.prompt_in(path, schema.names)
        _check_image_type(path, schema.field(self._image))
        self.files = parquet.is_text(schema.field(self._image).type)
        if self._prompt is not None:
            _check_text_type(path, schema.field(self._prompt))
        labels = label_columns(self._prompt, schema.names)
        everything = list(dict.fromkeys([self._image, *labels]))
        self._labels = Cursor(lambda start: self._rows(start, everything if self.files else labels))
        self._all = Cursor(lambda start: self._rows(start, everything))
        self._named = Cursor(lambda start: self._rows(start, everything))  # the same rows, for what they name
        if self.files:
            require_some(path, self._image, [row.path for row in self._named.take(0, PROBED)])

    @property
    def count(self) -> int:
        return self._count

    @abstractmethod
    def _records(self, start: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        """The named columns from row `start` on; there is at least one column."""

    def rows(self, start: int, stop: int) -> Iterator[Row]:
        return self._all.take(start, stop)

    def labels(self, start: int, stop: int) -> Iterator[Row]:
        return self._labels.take(start, stop)

    def states(self, rows: Sequence[Row]) -> list[Any]:
        if self.files:
            return file_states(rows, lambda row: (None, str(row.content) if row.content else None))
        return file_states(rows, lambda row: (row.place, self._path))

    def key(self, start: int, stop: int) -> Any:
        own = [date(self._path), self._image, start]
        if not self.files:
            return own
        rows = self._named.take(start, stop)
        return [*own, [date(str(row.content)) if isinstance(row.content, Path) else None for row in rows]]

    def _rows(self, start: int, columns: Sequence[str]) -> Iterator[Row]:
        import pyarrow as pa

        records = self._records(start, columns) if columns else iter([{}] * (self._count - start))
        try:
            for number, record in enumerate(records, start):
                yield self._row(number, record)
        except (pa.ArrowException, OSError) as error:
            raise TgoError(
                f"{printable(self._path)} cannot be read as Parquet: it is damaged after row {start}: "
                f"{in_one_line(error)}"
            ) from error

    def _row(self, number: int, record: dict[str, Any]) -> Row:
        path, content = self._content(record.get(self._image))
        name = str(record.get(ID) or f"{printable(self._path)}:{number}")
        prompt = record[self._prompt] if self._prompt else None
        uids = [str(uid) for uid in (path if self.files else None, *map(record.get, UIDS)) if uid is not None]
        model = record.get(MODEL)
        return Row(
            number,
            name,
            content,
            prompt,
            (path,) if path else (),
            uid=next(filter(None, uids), None),
            model=None if model is None else str(model),
            path=path,
        )

    def _content(self, value: Any) -> tuple[str | None, Path | bytes | None]:
        """The path that a cell of the image column names, and the image: bytes, or a file beside the table."""
        path, data = (value.get("path"), value.get("bytes")) if isinstance(value, dict) else (value, None)
        if isinstance(path, bytes):
            return None, path
        if self._importing and (self.files or (data is None and path)):
            require_inside(self._path, path)
        if data is None and path:
            return path, Path(self._path).parent / path
        return path, data


class ParquetFile(ImageTable):
    """One Parquet file, read a few rows at a time."""

    def __init__(self, path: str, columns: Columns) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(path) as file:
                super().__init__(path, file.schema_arrow, file.metadata.num_rows, columns)
        except (pa.ArrowInvalid, OSError) as error:
            raise TgoError(f"{printable(path)} cannot be read as Parquet: {in_one_line(error)}") from error

    def _records(self, start: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        import pyarrow.parquet as pq

        with pq.ParquetFile(self._path) as file:
            yield from parquet.rows_from(file, start, columns)


class SavedDataset(ImageTable):
    """A folder written by `datasets.Dataset.save_to_disk`: Arrow streams, mapped into memory."""

    def __init__(self, path: str, columns: Columns) -> None:
        import pyarrow as pa

        try:
            listed = json.loads((Path(path) / SAVED).read_text(encoding="utf-8"))["_data_files"]
            self._files = [Path(path) / file["filename"] for file in listed]
            count = sum(batch.num_rows for batch in self._record_batches())
            with pa.ipc.open_stream(pa.memory_map(str(self._files[0]))) as reader:
                schema = reader.schema
        except (pa.ArrowInvalid, OSError, ValueError, LookupError) as error:
            raise TgoError(
                f"{printable(path)} is not a data set of `save_to_disk`: {in_one_line(error)}"
            ) from error
        super().__init__(path, schema, count, columns)

    def states(self, rows: Sequence[Row]) -> list[Any]:
        dates = [date(str(file)) for file in self._files]
        return [[row.place, dates] for row in rows]

    def key(self, start: int, stop: int) -> Any:
        return [[date(str(file)) for file in self._files], self._image, start]

    def _records(self, start: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        return parquet.slices((batch.select(list(columns)) for batch in self._record_batches()), start)

    def _record_batches(self) -> Iterator[pa.RecordBatch]:
        import pyarrow as pa

        for file in self._files:
            with pa.ipc.open_stream(pa.memory_map(str(file))) as reader:
                yield from reader


def saved_dataset(path: str, columns: Columns) -> SavedDataset | None:
    """The data set that `save_to_disk` wrote into this folder; None if it is another kind of folder.

    Raises `TgoError` if the folder holds several splits.
    """
    splits = Path(path) / SAVED_SPLITS
    if splits.is_file():
        names = json.loads(splits.read_text(encoding="utf-8")).get("splits", [])
        raise TgoError(
            f"{path} holds the splits {', '.join(names)}: name one, as {os.path.join(path, names[0])}."
        )
    return SavedDataset(path, columns) if (Path(path) / SAVED).is_file() else None


def _check_image_type(path: str, field: pa.Field) -> None:
    import pyarrow as pa

    kind = field.type
    if pa.types.is_struct(kind):
        kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else kind
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or parquet.is_text(kind)):
        raise TgoError(
            f"{printable(path)}: column {field.name!r} is {field.type}, not images: it must hold bytes, paths, or a "
            f"struct with the field `bytes`; name another one ({IMAGE_OPTION})."
        )


def _check_text_type(path: str, field: pa.Field) -> None:
    if not parquet.is_text(field.type):
        raise TgoError(
            f"{printable(path)}: column {field.name!r} is {field.type}, not text: name the column of the prompts "
            f"({PROMPT_OPTION})."
        )
