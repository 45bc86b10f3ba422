"""Read prompts from the small world, from a .txt, .csv, .jsonl or .parquet file, or from a public data set."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from tgo_pipeline.errors import TgoError
from tgo_pipeline.prompts.normalise import normalise
from tgo_pipeline.storage.fingerprints import content_fingerprint, fingerprint

DEMO = "demo:"
CATEGORIES = ("category", "challenge")
"""Columns that a table of prompts may have besides."""
Record = tuple[str | None, ...]


class Prompt(NamedTuple):
    """A prompt as its source spells it, with the benchmark category and challenge that it has there."""

    text: str
    category: str | None = None
    challenge: str | None = None


def prompts(source: str, column: str) -> Iterator[Prompt]:
    """The raw prompts of a source as `read` gives them, one at a time, with category and challenge where there are any.

    `source` may also be the address of a data set (docs/DATASETS.md). Raises what `read` raises.
    """
    from tgo_pipeline.datasets import is_dataset, open_dataset

    if is_dataset(source):
        for batch in open_dataset(source).prompts():
            yield from (Prompt(row["prompt"] or "", *_categories(row)) for row in batch.to_pylist())
    elif source.startswith(DEMO) or Path(source).suffix.lower() == ".txt":
        yield from map(Prompt, read(source, column))
    else:
        for text, *categories in read_columns(Path(source).expanduser(), [column], CATEGORIES):
            yield Prompt(text or "", *map(_category, categories))


def _categories(row: dict[str, str | None]) -> list[str | None]:
    return [_category(row[name]) for name in CATEGORIES]


def _category(text: str | None) -> str | None:
    """One spelling per category; None where it is blank."""
    return normalise(text or "") or None


def read(source: str, column: str) -> list[str]:
    """The raw prompts of a source, in order; a null is an empty prompt.

    `source` is `demo:<family>`, a .txt file with one prompt a line, or a .csv, .jsonl or .parquet file whose
    `column` holds them. Raises `TgoError` if it does not exist, is of another kind or broken, or lacks the column.
    """
    if source.startswith(DEMO):
        from tgo_pipeline import demo

        return demo.prompts(source.removeprefix(DEMO))
    path = Path(source).expanduser()
    if path.suffix.lower() == ".txt":
        return _read_text(path, lambda stream: [line.rstrip("\n") for line in stream])
    return [text or "" for (text,) in read_columns(path, [column])]


def identity(source: str) -> str:
    """A hash of what a source holds. Raises `TgoError` if it does not exist."""
    from tgo_pipeline.datasets import is_dataset, open_dataset

    if is_dataset(source):
        return open_dataset(source).identity()
    if source.startswith(DEMO):
        return fingerprint(prompts=read(source, ""))
    path = Path(source).expanduser()
    if not path.is_file():
        raise _missing(path)
    return content_fingerprint(path)


def read_columns(path: Path, columns: Sequence[str], optional: Sequence[str] = ()) -> list[Record]:
    """The named text columns of a .csv, .jsonl or .parquet file, one tuple a row, then the optional ones as text.

    An optional column is null where the file lacks it. Raises `TgoError` if the file is missing, of another kind or
    broken, or lacks one of the columns.
    """
    reader = _READERS.get(path.suffix.lower())
    if reader is None:
        from tgo_pipeline.datasets import NAMES

        known = ", ".join((".txt (prompts alone)", *_READERS))
        raise TgoError(
            f"{path} is of a kind that is not read here: give one of {known}, demo:<family>, or a public data set "
            f"({NAMES}; docs/DATASETS.md)."
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
        return _read_text(path, lambda stream: _header(path, stream))
    if suffix == ".jsonl":
        return _read_text(path, lambda stream: _first_keys(path, stream))
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


def _read_text(path: Path, read_stream: Callable[[TextIO], list]) -> list:
    try:
        with path.open(encoding="utf-8-sig", newline="" if path.suffix.lower() == ".csv" else None) as stream:
            if "\0" in stream.read(4096):
                raise TgoError(f"{path} is binary, not text: name a text file in UTF-8.")
            stream.seek(0)
            return read_stream(stream)
    except FileNotFoundError as error:
        raise _missing(path) from error
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

    return _read_text(path, rows)


def _read_jsonl(path: Path, columns: Sequence[str], optional: Sequence[str]) -> list[Record]:
    def rows(stream: TextIO) -> list[Record]:
        lines = ((number, line) for number, line in enumerate(stream, start=1) if line.strip())
        return [_json_record(path, number, line, columns, optional) for number, line in lines]

    return _read_text(path, rows)


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
        raise _missing(path) from error
    except (pa.ArrowInvalid, OSError) as error:
        raise TgoError(f"{path} cannot be read as Parquet: {error}") from error


def _missing(path: Path) -> TgoError:
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
