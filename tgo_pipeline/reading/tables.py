"""The one reader of tables: csv, tsv, jsonl, json and Parquet files, and data sets of the hub, as streams of rows.

`open_table("ratings.csv").rows(["file_name", "prompt"], ["rater"])` gives text, `batches` values as they are stored.
A csv may have a byte order mark, and semicolons, tabs or bars instead of commas. What a program could have meant in two
ways (a column or a key that is there twice, a row with too few or too many values, an open quote) is refused.
"""

from __future__ import annotations

import csv
import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError, listed
from tgo_pipeline.formats import json_text
from tgo_pipeline.reading import parquet, text
from tgo_pipeline.reading.hub_rows import HubRows, is_hub_rows
from tgo_pipeline.reading.places import Folder, Place
from tgo_pipeline.storage.stores.inputs import local_path

if TYPE_CHECKING:
    import pyarrow as pa

Record = tuple[str | None, ...]
DELIMITERS = ",;\t|"
ROWS = 4096
"""Rows that are held at a time: texts of some hundred bytes, about a megabyte."""


class Table(ABC):
    """Rows with named columns. Everything raises `TgoError` if the file is missing, broken or lacks a column."""

    where: str

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """The columns; of JSON those of the first row."""

    @abstractmethod
    def rows(self, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Record]:
        """The named columns, which must be text, then the optional ones: names, null without a value."""

    @abstractmethod
    def batches(self, columns: Sequence[str], names: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        """The named columns as they are stored: text of csv and JSON, any type of Parquet.

        Those that are `names` of something must hold text or whole numbers: 1.0 is not the name 1.
        """

    def stated(self, value: str | None) -> str | None:
        """A value of a row, or null if nothing stands there."""
        return value

    def require(self, columns: Sequence[str]) -> None:
        """Raise `TgoError` naming the first column that is not there, or is there twice."""
        _require(self.where, columns, self.names)


class _File(Table):
    def __init__(self, place: Place, name: str) -> None:
        self.where = place.where(name)
        self._place, self._name = place, name


class CsvTable(_File):
    """A csv or tsv file with a header. A tsv is split at tabs alone: its quotes are text, as PartiPrompts needs.

    A row has as many values as the header has columns; empty ones may follow.
    """

    @cached_property
    def names(self) -> list[str]:
        return next(self._lines(), (0, []))[1]

    def rows(self, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Record]:
        lines = self._lines()
        _, names = next(lines, (0, []))
        _require(self.where, columns, names)
        places = {name: place for place, name in enumerate(names)}
        wanted = [places.get(name, len(names)) for name in (*columns, *optional)]
        for number, row in lines:
            if len(row) < len(names) or any(row[len(names) :]):
                raise TgoError(
                    f"{self.where}, line {number}: not as many values as columns ({len(row)} and {len(names)}); quote "
                    "values that hold the delimiter or a line break, and write one for each column, if only an empty "
                    "one."
                )
            yield tuple(row[place] if place < len(names) else None for place in wanted)

    def batches(self, columns: Sequence[str], names: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        return _pack(self.rows(columns), columns)

    def stated(self, value: str | None) -> str | None:
        return value or None  # an empty value is all that a csv can write of null

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """The header and every row that is not empty, with the number of the line where it begins."""
        with text.opened(self._place, self._name, newline="") as stream:
            lines = text.lines(stream, self.where)
            header = next(lines, "")
            tabs = self._name.lower().endswith(".tsv")
            likely = "," if "," in header else max(DELIMITERS, key=header.count)
            reader = csv.reader(
                itertools.chain([header], lines),
                delimiter="\t" if tabs else likely,
                quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
                strict=True,  # else an open quote swallows the rest of the file
            )
            begin = 1
            try:
                for row in reader:
                    if row:
                        yield begin, row
                    begin = reader.line_num + 1
            except csv.Error as error:
                raise TgoError(
                    f"{self.where}, line {begin}: not CSV ({error}); a value that begins with a quote ends with one, "
                    'and holds it as "".'
                ) from error


class _Records(Table):
    """Rows that are objects, with values of any type."""

    @abstractmethod
    def _records(self, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each row with at least the named columns that it has, and where it is."""

    def rows(self, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Record]:
        wanted = [*columns, *optional]
        for where, record in self._records(wanted):
            _require(where, columns, list(record))
            values = (
                *map(record.get, columns),
                *(as_name(where, name, record.get(name)) for name in optional),
            )
            yield _checked(where, wanted, values)

    def batches(self, columns: Sequence[str], names: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        rows = (
            _checked(
                where,
                columns,
                tuple(
                    (as_name if name in names else _as_text)(where, name, record.get(name))
                    for name in columns
                ),
            )
            for where, record in self._records(columns)
        )
        return _pack(rows, columns)


class JsonTable(_Records, _File):
    """A jsonl file: an object in each line."""

    @cached_property
    def names(self) -> list[str]:
        return next((list(record) for _, record in self._records(())), [])

    def _records(self, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        with text.opened(self._place, self._name) as stream:
            for number, line in enumerate(text.lines(stream, self.where), start=1):
                if line.strip():
                    where = f"{self.where}, line {number}"
                    yield where, _object(where, json_text.loads(line, where))


class JsonArray(JsonTable):
    """A json file: an array of objects."""

    def _records(self, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        for number, value in enumerate(text.values(self._place, self._name), start=1):
            where = f"{self.where}, record {number}"
            yield where, _object(where, value)


class HubTable(_Records):
    """A split of a data set of the hub, `hf:org/name@REVISION/SPLIT`."""

    def __init__(self, address: str) -> None:
        self.where = address
        self._hub = HubRows(address)

    @property
    def names(self) -> list[str]:
        return self._hub.names

    def rows(self, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Record]:
        self.require(columns)
        return super().rows(columns, optional)

    def _records(self, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        there = [name for name in dict.fromkeys(columns) if name in self.names]
        for number, record in enumerate(self._hub.records(0, there)):
            yield f"{self.where}, row {number}", record


class ParquetTable(_File):
    """A Parquet file."""

    @cached_property
    def names(self) -> list[str]:
        with parquet.opened(self._place, self._name) as file:
            return file.schema_arrow.names

    def rows(self, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Record]:
        self.require(columns)
        there = [name for name in dict.fromkeys((*columns, *optional)) if name in self.names]
        for batch in self.batches(there, [name for name in optional if name in there]):
            for name in columns:
                _require_text(self.where, batch.schema.field(name))
            texts = [parquet.pylist(batch[name], self.where) for name in columns]
            more = [
                map(str_or_none, parquet.pylist(batch[name], self.where))
                if name in there
                else [None] * batch.num_rows
                for name in optional
            ]
            yield from zip(*texts, *more, strict=True)

    def batches(self, columns: Sequence[str], names: Sequence[str] = ()) -> Iterator[pa.RecordBatch]:
        for batch in parquet.columns(self._place, self._name, columns, ROWS):
            for name in names:
                parquet.require_name(self.where, batch.schema.field(name))
            yield batch


_FILES: dict[str, type[_File]] = {
    ".csv": CsvTable,
    ".json": JsonArray,
    ".jsonl": JsonTable,
    ".parquet": ParquetTable,
    ".tsv": CsvTable,
}


def open_table(source: str | Path) -> Table:
    """The table at a path, or at an address of the hub. Raises `TgoError` for another kind of file, or a folder."""
    if isinstance(source, str) and is_hub_rows(source):
        return HubTable(source)
    path = local_path(source)
    kind = _FILES.get(path.suffix.lower())
    if kind is None:
        known = ", ".join((".txt (prompts alone)", *_FILES))
        raise TgoError(
            f"{path} is of a kind that is not read here: give one of {known}, rows of the hub "
            "(hf:ORGANISATION/NAME@REVISION/SPLIT), demo:<family>, or a public data set (NAME:WHERE; docs/DATASETS.md "
            "has the names)."
        )
    if path.is_dir():
        raise TgoError(f"{path} is a folder: name one file.")
    return kind(Folder(path.parent), path.name)


def _pack(rows: Iterable[Record], columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    """Rows of text as batches; one without rows if there are none."""
    import pyarrow as pa

    schema = pa.schema([(name, pa.string()) for name in columns])
    stream = iter(rows)
    held = list(itertools.islice(stream, ROWS))
    while True:
        values = [list(column) for column in zip(*held, strict=True)] or [[] for _ in columns]
        yield pa.RecordBatch.from_arrays([pa.array(each, pa.string()) for each in values], schema=schema)
        held = list(itertools.islice(stream, ROWS))
        if not held:
            return


def _require(where: str, columns: Sequence[str], found: Sequence[str]) -> None:
    for column in columns:
        if column not in found:
            raise TgoError(f"{where} has no column {column!r}; its columns are: {listed(found)}.")
        parquet.require_once(where, column, found)


def _require_text(where: str, field: pa.Field) -> None:
    if not (parquet.is_text(field.type) or parquet.is_null(field.type)):
        raise TgoError(f"{where}: column {field.name!r} is {field.type}, not text.")


def _checked(where: str, columns: Sequence[str], values: Record) -> Record:
    for column, value in zip(columns, values, strict=True):
        if value is not None and not _is_text(value):
            raise TgoError(f"{where}: {column!r} is {value!r:.80}, not text.")
    return values


def _is_text(value: object) -> bool:
    """JSON may escape half a surrogate pair, which no text file can hold."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _as_text(where: str, column: str, value: Any) -> str | None:
    """A value of JSON as a csv would have it."""
    if isinstance(value, (dict, list)):
        raise TgoError(f"{where}: {column!r} is a JSON {type(value).__name__}, neither text nor number.")
    return None if value is None else str(value)


def as_name(where: str, column: str, value: Any) -> str | None:
    """A name: text, or a whole number."""
    if value is not None and (isinstance(value, bool) or not isinstance(value, (str, int))):
        raise TgoError(
            f"{where}: {column!r} is {value!r:.80}, which is no name: write text, or a whole number."
        )
    return str_or_none(value)


def str_or_none(value: Any) -> str | None:
    """A value as text; null stays null."""
    return None if value is None else str(value)


def _object(where: str, record: Any) -> dict[str, Any]:
    if not isinstance(record, dict):
        raise TgoError(
            f"{where}: holds a JSON {type(record).__name__}, not an object with a key for each column."
        )
    return record
