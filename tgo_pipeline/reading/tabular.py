"""Columns of csv, jsonl, text and Parquet files as text: one reader of tables for prompts, feedback and captions."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

from tgo_pipeline.errors import TgoError

Record = tuple[str | None, ...]


def read_columns(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> list[Record]:
    """The named text columns of a .csv, .jsonl or .parquet file, one tuple a row, then the optional ones as text.

    An optional column is null where the file lacks it. Raises `TgoError` if the file is missing, of another kind or
    broken, or lacks one of the columns.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        known = ", ".join((".txt (prompts alone)", *_READERS))
        raise TgoError(
            f"{path} is of a kind that is not read here: give one of {known}, demo:<family>, or a public data set "
            "(NAME:WHERE; docs/DATASETS.md has the names)."
        )
    if path.is_dir():
        raise TgoError(f"{path} is a folder: name one file.")
    return reader(path, columns, optional)


def column_names(path: Path) -> list[str]:
    """The columns of a .csv, .jsonl (those of its first line) or .parquet file; raises as `read_columns` does."""
    suffix = path.suffix.lower()
    if suffix not in _READERS or not path.is_file():
        read_columns(path, [])
    if suffix == ".csv":
        return read_text(path, lambda stream: _header(path, stream))
    if suffix == ".jsonl":
        return read_text(path, lambda stream: _first_keys(path, stream))
    return _parquet_names(path)


def _header(path: Path, stream: TextIO) -> list[str]:
    try:
        return next(csv.reader(stream), [])
    except csv.Error as error:
        raise TgoError(f"{path}, line 1: not CSV ({error}).") from error


def _first_keys(path: Path, stream: TextIO) -> list[str]:
    for number, line in enumerate(stream, start=1):
        if line.strip():
            return list(_json_object(f"{path}, line {number}", line))
    return []


def read_text(path: Path, read_stream: Callable[[TextIO], list]) -> list:
    """What `read_stream` makes of a UTF-8 file. Raises `TgoError` if it is missing, binary or of another encoding."""
    try:
        with path.open(encoding="utf-8-sig", newline="" if path.suffix.lower() == ".csv" else None) as stream:
            if "\0" in stream.read(4096):
                raise TgoError(f"{path} is binary, not text: name a text file in UTF-8.")
            stream.seek(0)
            return read_stream(stream)
    except FileNotFoundError as error:
        raise missing(path) from error
    except UnicodeDecodeError as error:
        raise TgoError(f"{path} is not text in UTF-8 ({error}): save it as UTF-8.") from error
    except OSError as error:
        raise TgoError(f"{path} cannot be read: {error}") from error


def _read_csv(path: Path, columns: Sequence[str], optional: Sequence[str]) -> list[Record]:
    def rows(stream: TextIO) -> list[Record]:
        reader = csv.DictReader(stream)
        try:
            _require(path, columns, reader.fieldnames or [])
            return [
                (*(row[name] for name in columns), *(row.get(name) for name in optional)) for row in reader
            ]
        except csv.Error as error:
            raise TgoError(f"{path}, line {reader.line_num}: not CSV ({error}).") from error

    return read_text(path, rows)


def _read_jsonl(path: Path, columns: Sequence[str], optional: Sequence[str]) -> list[Record]:
    def rows(stream: TextIO) -> list[Record]:
        lines = ((number, line) for number, line in enumerate(stream, start=1) if line.strip())
        return [_json_record(path, number, line, columns, optional) for number, line in lines]

    return read_text(path, rows)


def _json_record(
    path: Path, number: int, line: str, columns: Sequence[str], optional: Sequence[str]
) -> Record:
    where = f"{path}, line {number}"
    record = _json_object(where, line)
    _require(where, columns, list(record))
    values = tuple(record[column] for column in columns)
    more = tuple(_as_text(record.get(name)) for name in optional)
    for column, value in zip((*columns, *optional), (*values, *more), strict=True):
        if value is not None and not _is_text(value):
            raise TgoError(f"{where}: {column!r} is {value!r}, not text.")
    return *values, *more


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


def _is_text(value: object) -> bool:
    """JSON may escape half a surrogate pair, which no text file can hold."""
    return isinstance(value, str) and not any("\ud800" <= letter <= "\udfff" for letter in value)


def _read_parquet(path: Path, columns: Sequence[str], optional: Sequence[str]) -> list[Record]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    found = _parquet_names(path)
    _require(path, columns, found)
    try:
        table = pq.read_table(path, columns=[*columns, *(name for name in optional if name in found)])
    except (pa.ArrowInvalid, OSError) as error:
        raise TgoError(f"{path} cannot be read as Parquet: {error}") from error
    for field in table.select(list(columns)).schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise TgoError(f"{path}: column {field.name!r} is {field.type}, not text.")
    texts = [table[name].to_pylist() for name in columns]
    more = [
        [_as_text(value) for value in table[name].to_pylist()] if name in found else [None] * table.num_rows
        for name in optional
    ]
    return list(zip(*texts, *more, strict=True))


def _parquet_names(path: Path) -> list[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        return pq.read_schema(path).names
    except FileNotFoundError as error:
        raise missing(path) from error
    except (pa.ArrowInvalid, OSError) as error:
        raise TgoError(f"{path} cannot be read as Parquet: {error}") from error


def missing(path: Path) -> TgoError:
    """The error of a file that does not exist."""
    return TgoError(f"{path} does not exist (looked in {Path.cwd()}).")


def _require(where: Path | str, columns: Sequence[str], found: Sequence[str]) -> None:
    for column in columns:
        if column not in found:
            names = ", ".join(map(str, found)) or "none"
            raise TgoError(f"{where} has no column {column!r}; its columns are: {names}.")


_READERS: dict[str, Callable[[Path, Sequence[str], Sequence[str]], list[Record]]] = {
    ".csv": _read_csv,
    ".jsonl": _read_jsonl,
    ".parquet": _read_parquet,
}
