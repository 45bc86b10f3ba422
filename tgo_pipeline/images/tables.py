"""Images in tables: bytes or paths in Parquet and in a saved Hugging Face data set."""

from __future__ import annotations

import itertools
import json
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError, in_one_line
from tgo_pipeline.formats.files import require_regular
from tgo_pipeline.formats.json_text import read_object
from tgo_pipeline.formats.parquet_files import explained, named
from tgo_pipeline.formats.parquet_footer import chunks
from tgo_pipeline.formats.parquet_values import StoredValue, locate
from tgo_pipeline.formats.remote import is_url
from tgo_pipeline.formats.spelling import on_disk
from tgo_pipeline.images.base import (
    FILE_NAME,
    MODEL,
    Content,
    Cursor,
    ImageSource,
    Row,
    date,
    file_states,
    located,
    printable,
)
from tgo_pipeline.images.columns import CLIP_COLUMNS, IMAGE_OPTION, PROMPT_OPTION, Columns
from tgo_pipeline.images.files import EXTENSIONS, PROBED, kind, named_clips, require_inside, require_some
from tgo_pipeline.reading import parquet
from tgo_pipeline.reading.tables import str_or_none
from tgo_pipeline.storage.stores.mirror import here, is_elsewhere, read_columns

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

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


def given(name: Any) -> str | None:
    """A name as text; None for none, or an empty one. 0 is a name."""
    return None if name is None or name == "" else str(name)


class ImageTable(ImageSource):
    """Rows of a columnar file: an image column of bytes, of Hugging Face's struct, or of paths."""

    def __init__(self, path: str, schema: pa.Schema, count: int, columns: Columns) -> None:
        self._count = count
        self._path = path
        self._importing = columns.importing
        self._image = columns.image_in(path, schema.names)
        self._prompt = columns.prompt_in(path, schema.names)
        parquet.require_once(printable(path), self._image, schema.names)
        _check_image_type(path, schema.field(self._image))
        self._of_paths = parquet.is_text(schema.field(self._image).type)
        self.files = self._of_paths or self._holds_no_bytes(schema.field(self._image))
        self.clips = is_video(schema, self._image)
        labels = label_columns(self._prompt, schema.names)
        if not self._of_paths:
            labels = [name for name in labels if name != self._image]
        _check_labels(path, schema, self._prompt, labels)
        everything = list(dict.fromkeys([self._image, *labels]))
        self._labels = Cursor(lambda start: self._rows(start, everything if self.files else labels))
        self._all = Cursor(lambda start: self._rows(start, everything))
        self._named = Cursor(lambda start: self._rows(start, everything))  # the same rows, for what they name
        if self.files:
            names = [row.path for row in self._named.take(0, PROBED)]
            require_some(path, self._image, names)
            self.clips = named_clips(name for name in names if name)

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

    @abstractmethod
    def _holds_no_bytes(self, field: pa.Field) -> bool:
        """Whether the image column, a struct, has paths alone: what `Dataset.to_parquet` writes of files."""

    def _rows(self, start: int, columns: Sequence[str]) -> Iterator[Row]:
        records = self._records(start, columns) if columns else iter([{}] * (self._count - start))
        for number in itertools.count(start):
            try:
                record = next(records, None)
            except TgoError:
                raise
            except Exception as error:
                raise TgoError(
                    f"{printable(self._path)} cannot be read as Parquet: it is damaged after row {start}: "
                    f"{in_one_line(error)}"
                ) from error
            if record is None:
                return
            yield self._row(number, record)

    def _row(self, number: int, record: dict[str, Any]) -> Row:
        path, content = self._content(record.get(self._image))
        name = given(record.get(ID))
        prompt = record[self._prompt] if self._prompt else None
        own = path if self._of_paths else None
        uids = map(given, (own, *map(record.get, UIDS)))
        return Row(
            number,
            f"{printable(self._path)}:{number}" if name is None else name,
            content,
            prompt,
            (path,) if path else (),
            uid=next((uid for uid in uids if uid is not None), None),
            model=str_or_none(record.get(MODEL)),
            path=path,
            captioned=self._prompt is not None,
        )

    def _content(self, value: Any) -> tuple[str | None, Content]:
        """The path that a cell of the image column names, and the image: bytes, or a file beside the table."""
        path, data = (value.get("path"), value.get("bytes")) if isinstance(value, dict) else (value, None)
        if isinstance(path, (bytes, StoredValue)):
            return None, path
        if self._importing and (self._of_paths or (data is None and path)):
            self._require_image(path)
        if data is None and path:
            return path, located(path if is_url(path) else on_disk(Path(self._path).parent, path))
        return path, data

    def _require_image(self, path: str | None) -> None:
        """Raise `TgoError` for a path that is not to be taken; absolute ones are what `datasets` writes."""
        if path and not self._of_paths and os.path.isabs(path) and kind(path) in EXTENSIONS:
            return
        require_inside(self._path, path)


class ParquetFile(ImageTable):
    """One Parquet file, read a few rows at a time."""

    def __init__(self, path: str, columns: Columns) -> None:
        with self._opened(path) as file:
            schema, rows = file.schema_arrow, file.metadata.num_rows
        self._located: tuple[list[StoredValue | None] | None] | None = None
        super().__init__(path, schema, rows, columns)

    def _opened(self, path: str) -> pq.ParquetFile:
        import pyarrow.parquet as pq

        with explained(printable(path)):
            require_regular(path)
            file = pq.ParquetFile(path)
            named(file.schema_arrow)
            return file

    def _records(self, start: int, columns: Sequence[str]) -> Iterator[dict[str, Any]]:
        if self._image not in columns and is_elsewhere(Path(self._path)):
            table = read_columns(Path(self._path), columns)
            yield from parquet.slices(table.to_batches(), start)
            return
        path = here(Path(self._path))
        with self._opened(str(path)) as file:
            if self._image in columns and not self.files and (places := self._places(file, path)) is not None:
                yield from self._with_places(file, start, columns, places)
            else:
                yield from parquet.rows_from(file, start, columns)

    def _places(self, file: pq.ParquetFile, path: Path) -> list[StoredValue | None] | None:
        """Where the bytes of each image lie in the file, if they can be read there."""
        if self._located is None or not path.samefile(self._path):  # one of a cache may have come once more
            struct = parquet.is_struct(file.schema_arrow.field(self._image).type)
            column = f"{self._image}.bytes" if struct else self._image
            self._located = (locate(file, path, column),)
        return self._located[0]

    def _with_places(
        self, file: pq.ParquetFile, start: int, columns: Sequence[str], places: Sequence[StoredValue | None]
    ) -> Iterator[dict[str, Any]]:
        """The rows with places in their file instead of bytes, which are not read here."""
        kind = file.schema_arrow.field(self._image).type
        struct = parquet.is_struct(kind)
        others = [name for name in columns if name != self._image]
        if struct and kind.get_field_index("path") >= 0:
            others.append(f"{self._image}.path")
        records = parquet.rows_from(file, start, others) if others else itertools.repeat({})
        for place, record in zip(itertools.islice(places, start, None), records, strict=False):
            image = {**(record.get(self._image) or {}), "bytes": place} if struct else place
            yield {**record, self._image: image}

    def _holds_no_bytes(self, field: pa.Field) -> bool:
        if not has_bytes(field.type):
            return True
        found = chunks(Path(self._path), f"{field.name}.bytes")
        return bool(found) and all(chunk.nulls == chunk.values for chunk in found)


class SavedDataset(ImageTable):
    """A folder written by `datasets.Dataset.save_to_disk`: Arrow streams, mapped into memory."""

    def __init__(self, path: str, columns: Columns) -> None:
        try:
            listed = read_object(Path(path) / SAVED)["_data_files"]
            self._files = [Path(path) / file["filename"] for file in listed]
            batches = list(self._record_batches())  # mapped, not read
            schema = batches[0].schema if batches else self._schema()
        except TgoError:
            raise
        except Exception as error:
            raise TgoError(
                f"{printable(path)} is not a data set of `save_to_disk`: {in_one_line(error)}"
            ) from error
        count = sum(batch.num_rows for batch in batches)
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
            require_regular(file)
            with pa.ipc.open_stream(pa.memory_map(str(file))) as reader:
                yield from reader

    def _schema(self) -> pa.Schema:
        import pyarrow as pa

        with pa.ipc.open_stream(pa.memory_map(str(self._files[0]))) as reader:
            return reader.schema

    def _holds_no_bytes(self, field: pa.Field) -> bool:
        if not has_bytes(field.type):
            return True
        columns = [batch[field.name] for batch in self._record_batches()]
        return bool(columns) and all(
            column.field("bytes").null_count == len(column)
            for column in columns
            if parquet.is_struct(column.type)
        )


def saved_dataset(path: str, columns: Columns) -> SavedDataset | None:
    """The data set that `save_to_disk` wrote into this folder; None if it is another kind of folder.

    Raises `TgoError` if the folder holds several splits.
    """
    splits = Path(path) / SAVED_SPLITS
    if splits.is_file():
        names = read_object(splits).get("splits", [])
        raise TgoError(
            f"{path} holds the splits {', '.join(names)}: name one, as {os.path.join(path, names[0])}."
        )
    return SavedDataset(path, columns) if (Path(path) / SAVED).is_file() else None


def is_video(schema: pa.Schema, column: str) -> bool:
    """Whether a column holds clips: by its name, or by the feature that `datasets` wrote of it."""
    if column in CLIP_COLUMNS:
        return True
    try:
        features = json.loads((schema.metadata or {}).get(b"huggingface", b"{}"))["info"]["features"]
        return features[column]["_type"] == "Video"
    except (ValueError, KeyError, TypeError):  # a table of others: nothing, or something else, stands there
        return False


def has_bytes(kind: pa.DataType) -> bool:
    """Whether an image column holds bytes, by itself or in a struct."""
    if not parquet.is_struct(kind):
        return parquet.is_bytes(kind)
    place = kind.get_field_index("bytes")
    return place >= 0 and parquet.is_bytes(kind.field(place).type)


def _has_paths(kind: pa.DataType) -> bool:
    """Whether an image column holds paths alone; a field `bytes` without any value has no type."""
    if not parquet.is_struct(kind):
        return parquet.is_text(kind)
    path, data = kind.get_field_index("path"), kind.get_field_index("bytes")
    empty = data < 0 or parquet.is_null(kind.field(data).type)
    return empty and path >= 0 and parquet.is_text(kind.field(path).type)


def _check_image_type(path: str, field: pa.Field) -> None:
    if not (has_bytes(field.type) or _has_paths(field.type)):
        raise TgoError(
            f"{printable(path)}: column {field.name!r} is {field.type}, not images: it must hold bytes, paths, or a "
            f"struct with the field `bytes`; name another one ({IMAGE_OPTION})."
        )


def _check_labels(path: str, schema: pa.Schema, prompt: str | None, labels: Sequence[str]) -> None:
    for name in labels:
        parquet.require_once(printable(path), name, schema.names)
        if name != prompt:
            parquet.require_name(printable(path), schema.field(name))
        elif not (parquet.is_text(schema.field(name).type) or parquet.is_null(schema.field(name).type)):
            raise TgoError(
                f"{printable(path)}: column {name!r} is {schema.field(name).type}, not text: name the column of the "
                f"prompts ({PROMPT_OPTION})."
            )
