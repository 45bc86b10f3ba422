"""The one reader of tables: csv, tsv, jsonl and Parquet files, and data sets of the hub, as streams of rows.

`open_table("ratings.csv").rows(["file_name", "prompt"], ["rater"])` gives text, `batches` values as they are stored.
A csv may have a byte order mark, and semicolons, tabs or bars instead of commas.
"""

from __future__ import annotations

import csv
import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.reading import parquet, text
from tgo_pipeline.reading.hub_rows import HubRows, is_hub_rows
from tgo_pipeline.reading.places import Folder, Place

if TYPE_CHECKING:
    import pyarrow as pa

Record = tuple[str | None, ...]
DELIMITERS = ",;\t|"
ROWS = 4096
"""Rows that are held at a time."""


class Table(ABC):
    """Rows with named columns. Everything raises `TgoError` if the file is missing, broken or lacks a column."""

    where: str

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """The columns; of JSON those of the first row."""

    @abstractmethod
    def rows(self, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Record]:
        """The named columns, which must be text, then the optional ones as text, null where there are none."""

    @abstractmethod
    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        """The named columns as they are stored: text of csv and JSON, any type of Parquet."""

    def require(self, columns: Sequence[str]) -> None:
        """Raise `TgoError` naming the first column that is not there."""
        _require(self.where, columns, self.names)


class _File(Table):
    def __init__(self, place: Place, name: str) -> None:
        self.where = place.where(name)
        self._place, self._name = place, name


class CsvTable(_File):
    """A csv or tsv file with a header. A tsv is split at tabs alone: its quotes are text, as PartiPrompts needs.

    A row that ends early lacks its last values, unless rows must be `whole`; one with more values than columns is
    refused.
    """

    def __init__(self, place: Place, name: str, *, whole: bool = False) -> None:
        super().__init__(place, name)
        self._whole = whole

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
            if any(row[len(names) :]) or (self._whole and len(row) < len(names)):
                raise TgoError(
                    f"{self.where}, line {number}: not as many values as columns ({len(row)} and {len(names)}); quote "
                    "values that hold the delimiter."
                )
            yield tuple(row[place] if place < len(row) else None for place in wanted)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return _pack(self.rows(columns), columns)

    def _lines(self) -> Iterator[tuple[int, list[str]]]:
        """The header and every row that is not empty, with the number of the line where it ends."""
        with text.opened(self._place, self._name, newline="") as stream:
            header = stream.readline()
            tabs = self._name.lower().endswith(".tsv")
            likely = "," if "," in header else max(DELIMITERS, key=header.count)
            reader = csv.reader(
                itertools.chain([header], stream),
                delimiter="\t" if tabs else likely,
                quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
            )
            try:
                yield from ((reader.line_num, row) for row in reader if row)
            except csv.Error as error:
                raise TgoError(f"{self.where}, line {max(1, reader.line_num)}: not CSV ({error}).") from error


class _Records(Table):
    """Rows that are objects, with values of any type."""

    @abstractmethod
    def _records(self, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        """Each row with at least the named columns that it has, and where it is."""

    def rows(self, columns: Sequence[str], optional: Sequence[str] = ()) -> Iterator[Record]:
        wanted = [*columns, *optional]
        for where, record in self._records(wanted):
            _require(where, columns, list(record))
            values = (*map(record.get, columns), *(_as_text(record.get(name)) for name in optional))
            yield _checked(where, wanted, values)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return _pack(self.rows((), columns), columns)


class JsonTable(_Records, _File):
    """A jsonl file: an object in each line."""

    @cached_property
    def names(self) -> list[str]:
        return next((list(record) for _, record in self._records(())), [])

    def _records(self, columns: Sequence[str]) -> Iterator[tuple[str, dict[str, Any]]]:
        with text.opened(self._place, self._name) as stream:
            for number, line in enumerate(stream, start=1):
                if line.strip():
                    where = f"{self.where}, line {number}"
                    yield where, _json_object(where, line)


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
        for batch in self.batches(there):
            for name in columns:
                _require_text(self.where, batch.schema.field(name))
            texts = [batch[name].to_pylist() for name in columns]
            more = [
                map(_as_text, batch[name].to_pylist()) if name in there else [None] * batch.num_rows
                for name in optional
            ]
            yield from zip(*texts, *more, strict=True)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return parquet.columns(self._place, self._name, columns, ROWS)


_FILES: dict[str, type[_File]] = {
    ".csv": CsvTable,
    ".jsonl": JsonTable,
    ".parquet": ParquetTable,
    ".tsv": CsvTable,
}


def open_table(source: str | Path) -> Table:
    """The table at a path, or at an address of the hub. Raises `TgoError` for another kind of file, or a folder."""
    if isinstance(source, str) and is_hub_rows(source):
        return HubTable(source)
    path = Path(source).expanduser()
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
            names = ", ".join(map(str, found)) or "none"
            raise TgoError(f"{where} has no column {column!r}; its columns are: {names}.")


def _require_text(where: str, field: pa.Field) -> None:
    if not parquet.is_text(field.type):
        raise TgoError(f"{where}: column {field.name!r} is {field.type}, not text.")


def _checked(where: str, columns: Sequence[str], values: Record) -> Record:
    for column, value in zip(columns, values, strict=True):
        if value is not None and not _is_text(value):
            raise TgoError(f"{where}: {column!r} is {value!r}, not text.")
    return values


def _is_text(value: object) -> bool:
    """JSON may escape half a surrogate pair, which no text file can hold."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _as_text(value: Any) -> str | None:
    return None if value is None else str(value)


def _json_object(where: str, line: str) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise TgoError(f"{where}: not JSON ({error}).") from error
    if not isinstance(record, dict):
        raise TgoError(
            f"{where}: holds a JSON {type(record).__name__}, not an object with a key for each column."
        )
    return record
