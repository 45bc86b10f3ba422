"""Where the values of a binary Parquet column lie in their file, so that whoever needs one reads it alone.

Arrow decodes a column from the beginning of a row group; processes that share out its rows would each read nearly all
of it. Values that are neither compressed nor in a dictionary lie in the file as they are: of each page only its header,
which values are missing, and the length of each value are read here. The layout is that of the Parquet format, 2.x:
https://github.com/apache/parquet-format (levels: RLE and bit-packing).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.files import open_regular
from tgo_pipeline.formats.parquet_footer import UNKNOWN, ColumnChunk, chunks, struct, varint

if TYPE_CHECKING:
    import numpy as np
    import pyarrow.parquet as pq

HEADER_BYTES = 1 << 16
"""The largest page header that is read: with the smallest and the largest value, of 4 KB each at most by Arrow."""
OPEN_FILES = 4
"""Files that stay open for further values; whoever reads in order needs one."""
_DATA_PAGE, _PLAIN, _RLE = 0, 0, 3  # numbers of parquet.thrift
_LENGTH_BYTES = 4  # before each value of a PLAIN page, and before its levels
State = tuple[int, int, int]


class StoredValue(NamedTuple):
    """Bytes in a file; `state` is what the file was when they were found in it."""

    path: str
    offset: int
    length: int
    state: State

    def read(self) -> bytes:
        """The bytes. Raises `TgoError` if the file is another one by now."""
        stream = _opened(self.path, self.state)  # held while it is read: the cache may drop it at any time
        data = os.pread(stream.fileno(), self.length, self.offset)
        if len(data) != self.length:
            raise _changed(self.path)
        return data


def locate(file: pq.ParquetFile, path: Path, column: str) -> list[StoredValue | None] | None:
    """Each value of a column, by its dotted path; None for one that is missing.

    None as a whole where the values do not lie in the file as they are: compressed, in a dictionary, in lists, or laid
    out in a way that this reader does not know.
    """
    if not hasattr(os, "pread"):
        return None
    found = chunks(path, column)
    if found is None:
        return None
    with open_regular(path) as stream:
        state, name = _state(stream), str(path)
        try:
            level = _level(file, column)
            places = [place for chunk in found for place in _places(stream, chunk, level)]
        except UNKNOWN:
            return None
    return [place and StoredValue(name, *place, state) for place in places]


def _level(file: pq.ParquetFile, column: str) -> int:
    """The level at which a value of a binary column is there, 0 where none is missing."""
    schema = map(file.schema.column, range(len(file.schema)))
    (leaf,) = (found for found in schema if found.path == column)
    if leaf.physical_type != "BYTE_ARRAY" or leaf.max_repetition_level:
        raise ValueError(leaf.physical_type)
    return leaf.max_definition_level


def _places(stream: BinaryIO, chunk: ColumnChunk, level: int) -> Iterator[tuple[int, int] | None]:
    """Offset and length of each value. Raises one of several errors where they cannot be known."""
    if not chunk.plain:
        raise ValueError("compressed, or in a dictionary")
    at, end, rows = chunk.offset, chunk.offset + chunk.size_bytes, 0
    while at < end:
        found, at = _page(stream, at, end, level, chunk.rows - rows)
        rows += len(found)
        yield from found
    if at != end or rows != chunk.rows:
        raise ValueError(at)


def _page(
    stream: BinaryIO, at: int, most_end: int, most_level: int, most_rows: int
) -> tuple[list[tuple[int, int] | None], int]:
    """Where the values of a data page lie, and where the page ends: not behind `most_end`."""
    import numpy as np

    header, size = struct(_read(stream, at, HEADER_BYTES), 0)
    kind, body_bytes, page = header[1], header[3], header[5]
    if kind != _DATA_PAGE or page[2] != _PLAIN or page[3] != _RLE:
        raise ValueError(kind)
    count, at, end = page[1], at + size, at + size + body_bytes
    if not (0 <= count <= most_rows and at <= end <= most_end):
        raise ValueError(count)
    there = np.ones(count, dtype=bool)
    if most_level:
        levels_bytes = int.from_bytes(_read(stream, at, _LENGTH_BYTES), "little")
        if levels_bytes > body_bytes:
            raise ValueError(levels_bytes)
        levels = _read(stream, at + _LENGTH_BYTES, levels_bytes)
        there = _levels(levels, most_level.bit_length(), count) == most_level
        at += _LENGTH_BYTES + levels_bytes
    found: list[tuple[int, int] | None] = []
    for one in there.tolist():
        if not one:
            found.append(None)
            continue
        length = int.from_bytes(_read(stream, at, _LENGTH_BYTES), "little")
        found.append((at + _LENGTH_BYTES, length))
        at += _LENGTH_BYTES + length
    if at != end:
        raise ValueError(at)
    return found, end


def _levels(data: bytes, width: int, count: int) -> np.ndarray:
    """`count` numbers of `width` bits in Parquet's hybrid of repeated and bit-packed runs."""
    import numpy as np

    runs, at, have = [], 0, 0
    while have < count:
        head, at = varint(data, at)
        if head & 1:
            size = (head >> 1) * width  # groups of eight numbers
            bits = np.unpackbits(np.frombuffer(data, np.uint8, size, at), bitorder="little")
            runs.append(bits.reshape(-1, width) @ (1 << np.arange(width)))
        else:
            size = (width + 7) // 8
            runs.append(np.full(min(head >> 1, count), int.from_bytes(data[at : at + size], "little")))
        at += size
        have += len(runs[-1])
    return np.concatenate([np.empty(0, int), *runs])[:count]


def _read(stream: BinaryIO, at: int, size: int) -> bytes:
    return os.pread(stream.fileno(), size, at)


def _state(stream: BinaryIO) -> State:
    found = os.fstat(stream.fileno())
    return found.st_size, found.st_mtime_ns, found.st_ino


@functools.lru_cache(maxsize=OPEN_FILES)
def _opened(path: str, state: State) -> BinaryIO:
    """A file that is what it was; whoever holds it last closes it."""
    try:
        stream = open_regular(path)
    except OSError as error:
        raise TgoError(
            f"{path} cannot be read any more ({error.strerror}): it was there when the run began; run again."
        ) from error
    if _state(stream) != state:
        stream.close()
        raise _changed(path)
    return stream


def _changed(path: str) -> TgoError:
    return TgoError(f"{path} was changed while it was read: leave it as it is during a run, and run again.")
