"""Images in files: a folder with a metadata file, a table of file names, or Parquet with an image column."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from tgo_pipeline.datasets import NAMES
from tgo_pipeline.errors import TgoError
from tgo_pipeline.images.base import FILE_NAME, METADATA, Entry, ImageSource, Picture
from tgo_pipeline.reading import parquet
from tgo_pipeline.reading.places import Folder
from tgo_pipeline.reading.tabular import column_names, read_columns

log = logging.getLogger("tgo")
TABLES = (".csv", ".jsonl", ".parquet")
MODEL = "model"
UIDS = ("image_uid", FILE_NAME)
"""Columns of Parquet with images that may say what an image is called."""
ROWS = 16
"""Rows with images that are decoded at a time."""
PROBED = 100
"""How many files are looked for before it is said that none is there."""


class Where(NamedTuple):
    """A file of its own (`row` is None), or a row of a Parquet file."""

    file: Path
    row: int | None


class LocalImages(ImageSource):
    """The images of a folder, a table or Parquet files; `at` is a `Where`."""

    def __init__(self, source: Path, image_column: str, prompt_column: str) -> None:
        self._source = source
        self._image = image_column
        self._prompt = prompt_column

    def entries(self) -> Iterator[Entry]:
        table = self._table()
        if table is not None:
            yield from self._named(table)
            return
        for file in _parquet_files(self._source):
            records = read_columns(file, [self._prompt], (*UIDS, MODEL))
            _check_image_column(file, self._image)
            for row, (prompt, uid, name, model) in enumerate(records):
                yield Entry(prompt, uid or name, model, Where(file, row))

    def states(self, entries: Sequence[Entry]) -> list[Any]:
        date = cache(_date)
        return [[entry.at.row, date(entry.at.file)] for entry in entries]

    def pictures(self, entries: Sequence[Entry]) -> Iterator[Picture]:
        for file, group in itertools.groupby(entries, key=lambda entry: entry.at.file):
            rows = [entry.at.row for entry in group]
            if rows == [None] * len(rows):
                yield from (_read_file(file) for _ in rows)
            else:
                yield from _read_rows(file, rows, self._image)

    def _table(self) -> Path | None:
        """The table of file names: the folder's metadata, or the file itself unless it holds the images."""
        if self._source.is_dir():
            return next((self._source / name for name in METADATA if (self._source / name).is_file()), None)
        if not self._source.is_file() or self._source.suffix.lower() not in TABLES:
            return None
        names = column_names(self._source)
        holds_images = self._source.suffix.lower() == ".parquet" and (
            self._image in names or FILE_NAME not in names
        )
        return None if holds_images else self._source

    def _named(self, table: Path) -> Iterator[Entry]:
        rows = read_columns(table, [FILE_NAME, self._prompt], [MODEL])
        _require_some(table, [name for name, *_ in rows[:PROBED]])
        for name, prompt, model in rows:
            yield Entry(prompt, name, model, Where(_inside(table.parent, name, table), None))


def _require_some(table: Path, names: Sequence[str | None]) -> None:
    """Raise `TgoError` if there are files, and none of them is there."""
    files = [_inside(table.parent, name, table) for name in names]
    if files and not any(file.is_file() for file in files):
        raise TgoError(
            f"{table}: none of its files is there (looked for {files[0]} and others): {FILE_NAME} must be relative to "
            f"{table.parent.resolve()}."
        )


def _parquet_files(source: Path) -> list[Path]:
    if not source.exists():
        known = f" A public data set is named {NAMES}." if ":" in str(source) else ""
        raise TgoError(f"generate.images is {source}, which does not exist (looked in {Path.cwd()}).{known}")
    files = sorted(source.rglob("*.parquet")) if source.is_dir() else [source]
    if not files or any(file.suffix != ".parquet" for file in files):
        raise TgoError(
            f"generate.images is {source}: it must be a folder with image files and one of {', '.join(METADATA)} "
            f"(columns {FILE_NAME} and the prompt), such a table by itself, Parquet with an image column (a Hugging "
            "Face data set is written so by `dataset.to_parquet`), or a data set as in docs/DATASETS.md."
        )
    return files


def _check_image_column(file: Path, column: str) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pq.read_schema(file)
    if column not in schema.names:
        raise TgoError(f"{file} has no column {column!r}; its columns are: {', '.join(schema.names)}.")
    kind = schema.field(column).type
    if pa.types.is_struct(kind):
        kind = kind.field("bytes").type if kind.get_field_index("bytes") >= 0 else kind
    if not (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        raise TgoError(
            f"{file}: column {column!r} is {schema.field(column).type}, not an image: it must be binary, or a struct "
            "with the field `bytes`."
        )


def _inside(folder: Path, name: str | None, where: Path) -> Path:
    if not name or Path(name).is_absolute() or ".." in Path(name).parts:
        raise TgoError(f"{where}: {FILE_NAME} {name!r} is no file inside {folder}.")
    return folder / name


def _date(file: Path) -> tuple[str, int, int] | None:
    """Name, size in bytes and date of change; None for a missing file."""
    try:
        stat = file.stat()
    except OSError:
        return None
    return file.name, stat.st_size, stat.st_mtime_ns


def _read_file(file: Path) -> Picture:
    try:
        return Picture(file.read_bytes(), file.name)
    except OSError as error:
        log.warning("%s", error)
        return Picture(None, file.name)


def _read_rows(file: Path, wanted: Sequence[int], column: str) -> Iterator[Picture]:
    """Rows in rising order, a few at a time; row groups without any of them are not read."""
    with parquet.opened(Folder(file.parent, file.name), file.name) as stream:
        remaining = list(wanted)
        start = 0
        for group in range(stream.num_row_groups):
            end = start + stream.metadata.row_group(group).num_rows
            here = {row - start for row in remaining if row < end}
            remaining = remaining[len(here) :]
            start = end
            if here:
                batches = stream.iter_batches(batch_size=ROWS, row_groups=[group], columns=[column])
                values = itertools.chain.from_iterable(batch[column] for batch in batches)
                yield from (_picture(file, value.as_py()) for row, value in enumerate(values) if row in here)


def _picture(file: Path, value: Any) -> Picture:
    if not isinstance(value, dict):
        return Picture(value, None)
    if value["bytes"] is None and value.get("path"):
        return _read_file(_inside(file.parent, value["path"], file))
    return Picture(value["bytes"], value.get("path"))
