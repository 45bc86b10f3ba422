"""Columns of Parquet files as a stream: only the row groups and columns that are asked for, page by page."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError, first_line, listed
from tgo_pipeline.formats.parquet_files import each, explained, named
from tgo_pipeline.reading.places import Place

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

PATTERNS = ("*.parquet", "*/*.parquet", "*/*/*.parquet")
BUFFER_BYTES = 1024**2
"""How much of a column is held while its pages are decoded, so that a row group of images is never held whole."""
ROWS_AT_ONCE = 16
"""Rows with images in memory at once: tens of megabytes where images are of usual sizes."""
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


def _plain(kind: pa.DataType) -> pa.DataType:
    """What the values of a dictionary are, or of any other column."""
    import pyarrow as pa

    return kind.value_type if pa.types.is_dictionary(kind) else kind


def is_text(kind: pa.DataType) -> bool:
    """Whether a column of this type holds text, also as a dictionary."""
    import pyarrow as pa

    kind = _plain(kind)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a column of this type holds bytes, also as a dictionary."""
    import pyarrow as pa

    kind = _plain(kind)
    variable = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return variable or (pa.types.is_fixed_size_binary(kind) and not pa.types.is_decimal(kind))


def is_struct(kind: pa.DataType) -> bool:
    """Whether a column holds several values in each row under names."""
    import pyarrow as pa

    return pa.types.is_struct(kind)


def is_null(kind: pa.DataType) -> bool:
    """Whether a column has no value at all, so that it has no type."""
    import pyarrow as pa

    return pa.types.is_null(kind)


def require_name(where: str, field: pa.Field) -> None:
    """Raise `TgoError` unless a column can name things: text or whole numbers, or nothing at all."""
    import pyarrow as pa

    kind = _plain(field.type)
    if not (is_text(kind) or pa.types.is_integer(kind) or is_null(kind)):
        raise TgoError(
            f"{where}: column {field.name!r} is {field.type}, which names nothing: write text, or whole numbers."
        )


def require_once(where: str, column: str, found: Sequence[str]) -> None:
    """Raise `TgoError` if a column is there twice: nothing says which of them is meant."""
    if list(found).count(column) > 1:
        raise TgoError(f"{where} has the column {column!r} twice: keep one of them, or rename the other.")


def pylist(column: pa.Array | pa.ChunkedArray, where: str) -> list[Any]:
    """The values of a column as Python objects. Raises `TgoError` where text is not UTF-8."""
    with explained(where):
        return column.to_pylist()


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
        with explained(place.where(name), place.hint, place.own_errors):
            file = pq.ParquetFile(stream, buffer_size=BUFFER_BYTES, pre_buffer=False)
            named(file.schema_arrow)
        with file:
            try:
                yield file
            except pa.ArrowException as error:
                raise TgoError(
                    f"{place.where(name)} cannot be read as Parquet: {first_line(error)}.{place.hint}"
                ) from error


def require(where: str, wanted: Sequence[str], found: Sequence[str]) -> None:
    """Raise `TgoError` naming the first wanted column that is not among those found."""
    for column in wanted:
        if column not in found:
            raise TgoError(
                f"{where} has no column {column!r}; its columns are: {listed(found)}. If the data set has "
                "changed its schema, pin the revision that had it."
            )
        require_once(where, column, found)


def columns(place: Place, name: str, wanted: Sequence[str], rows: int) -> Iterator[pa.RecordBatch]:
    """Batches of at most `rows` rows of the wanted columns. Raises `TgoError` as `opened` and `require` do."""
    with opened(place, name) as file:
        require(place.where(name), wanted, file.schema_arrow.names)
        for group in range(file.num_row_groups):
            yield from each(
                stream(file, wanted, rows, group), place.where(name), place.hint, place.own_errors
            )


def cast(address: str, batch: pa.RecordBatch, name: str, kind: pa.DataType) -> pa.Array:
    """A column as another type. Raises `TgoError` with the column and what it is if it cannot be one.

    A name may be a whole number and a number may be written as text, but true is not 1, and 1.0 is not the name 1.
    """
    import pyarrow as pa

    found = batch.schema.field(name).type
    refusal = f"{address}: column {name!r} is {found}, which cannot be read as {kind}"
    if not _fits(_plain(found), kind):
        raise TgoError(f"{refusal}.")
    try:
        return batch[name].cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise TgoError(f"{refusal}: {first_line(error)}.") from error


def _fits(found: pa.DataType, kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_null(found) or found == kind:
        return True
    if pa.types.is_string(kind):
        return is_text(found) or pa.types.is_integer(found)
    if pa.types.is_floating(kind):
        return is_text(found) or any(
            known(found) for known in (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)
        )
    return False


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
                yield from each(
                    rows_from(file, start, wanted), place.where(name), place.hint, place.own_errors
                )
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
