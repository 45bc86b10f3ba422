"""Columns of Parquet files as a stream: only the row groups and columns that are asked for, page by page."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError, first_line
from tgo_pipeline.reading.places import Place

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

PATTERNS = ("*.parquet", "*/*.parquet", "*/*/*.parquet")
BUFFER_BYTES = 1024**2
"""How much of a column is held while its pages are decoded, so that a row group of images is never held whole."""
ROWS_AT_ONCE = 16
"""Rows with images in memory at once."""
_SHARD = re.compile(r"(?:parquet-)?(?P<split>[A-Za-z_]+)(?:-\d+-of-\d+.*)?")


def of_split(address: str, place: Place, split: str | None) -> list[str]:
    """The Parquet files of a split, by their names (`data/train-00000-of-00645-….parquet`, `train/0000.parquet`).

    Raises `TgoError` if there are none, or there are several splits and none was named.
    """
    if place.only is not None:
        return [place.only]
    names = place.find(*PATTERNS)
    splits = sorted({_split(name) for name in names})
    if not names:
        raise TgoError(f"{address}: {place.name} holds no Parquet file.")
    if split is None and len(splits) > 1:
        raise TgoError(f"{address} has the splits {', '.join(splits)}: add one, as in {address}/{splits[0]}.")
    chosen = [name for name in names if split in (None, _split(name))]
    if not chosen:
        raise TgoError(f"{address}: there is no split {split!r} in {place.name}; it has {', '.join(splits)}.")
    return chosen


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text, also as a dictionary."""
    import pyarrow as pa

    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _split(name: str) -> str:
    path = PurePosixPath(name)
    match = _SHARD.fullmatch(path.stem)
    return match["split"] if match else path.parent.name


@contextlib.contextmanager
def opened(place: Place, name: str) -> Iterator[pq.ParquetFile]:
    """A Parquet file. Raises `TgoError` if it is missing or broken, here or while it is read."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    with place.open_arrow(name) as stream:
        try:
            with pq.ParquetFile(stream, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
                yield file
        except (pa.ArrowException, OSError) as error:
            raise TgoError(
                f"{place.where(name)} cannot be read as Parquet: {first_line(error)}.{place.hint}"
            ) from error


def require(where: str, wanted: Sequence[str], found: Sequence[str]) -> None:
    """Raise `TgoError` naming the first wanted column that is not among those found."""
    for column in wanted:
        if column not in found:
            names = ", ".join(map(str, found)) or "none"
            raise TgoError(
                f"{where} has no column {column!r}; its columns are: {names}. If the data set has changed its schema, "
                "pin the revision that had it."
            )


def columns(place: Place, name: str, wanted: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Batches of at most `rows` rows of the wanted columns. Raises `TgoError` as `opened` and `require` do."""
    with opened(place, name) as file:
        require(place.where(name), wanted, file.schema_arrow.names)
        for group in range(file.num_row_groups):
            yield from stream(file, wanted, rows, group)


def cast(address: str, batch: pa.RecordBatch, name: str, kind: pa.DataType) -> pa.Array:
    """A column as another type. Raises `TgoError` with the column and what it is if it cannot be one."""
    import pyarrow as pa

    try:
        return batch[name].cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise TgoError(
            f"{address}: column {name!r} is {batch[name].type}, which cannot be read as {kind}: {error}."
        ) from error


def stream(file: pq.ParquetFile, wanted: Sequence[str], rows: int, group: int) -> Iterator[pa.RecordBatch]:
    """Batches of one row group, column after column.

    Several threads, or a batch of several row groups, would jump about in a file of the hub.
    """
    yield from file.iter_batches(batch_size=rows, row_groups=[group], columns=list(wanted), use_threads=False)


def records(
    place: Place, names: Sequence[str], start: int, wanted: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """The rows of several files from row `start` of all on; row groups before it are not read.

    Raises `TgoError` as `opened` and `require` do.
    """
    for name in names:
        with opened(place, name) as file:
            if start < file.metadata.num_rows:
                require(place.where(name), wanted, file.schema_arrow.names)
                yield from rows_from(file, start, wanted)
            start = max(0, start - file.metadata.num_rows)


def rows_from(file: pq.ParquetFile, start: int, wanted: Sequence[str]) -> Iterator[dict[str, Any]]:
    """The rows of a file from row `start` on, a few images at a time."""
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        if start < rows:
            yield from slices(stream(file, wanted, ROWS_AT_ONCE, group), start)
        start = max(0, start - rows)


def slices(batches: Iterable[pa.RecordBatch], start: int) -> Iterator[dict[str, Any]]:
    """The rows of batches from row `start` on, a few as Python objects at a time."""
    for batch in batches:
        for first in range(start, batch.num_rows, ROWS_AT_ONCE):
            yield from batch.slice(first, ROWS_AT_ONCE).to_pylist()
        start = max(0, start - batch.num_rows)
