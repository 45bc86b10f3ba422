"""What the footer of a Parquet file says of the pieces of a column, read from its bytes.

pyarrow's readers raise where a footer is damaged, but its accessor of a column's metadata ends the process over some
numbers of values that contradict the schema. Thrift's compact protocol, with the field numbers of parquet.thrift:
https://github.com/apache/parquet-format
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from tgo_pipeline.formats.files import open_regular

MOST_BYTES = 1 << 26
"""The largest footer that is read: some million pieces of columns."""
_MAGIC = b"PAR1"
_END_BYTES = 4 + len(_MAGIC)  # its length and the mark
_UNCOMPRESSED = 0
UNKNOWN = (ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RuntimeError, OSError)
"""What damaged bytes lead to, and layouts that are not known: Arrow, which then reads the file, says what is wrong."""


class ColumnChunk(NamedTuple):
    """The values of one column in one row group; `offset` is that of its first data page."""

    rows: int
    values: int
    nulls: int | None
    plain: bool
    """Neither compressed nor in a dictionary."""
    offset: int
    size_bytes: int


def chunks(path: Path, column: str) -> list[ColumnChunk] | None:
    """The pieces of a leaf column, by its dotted path, one a row group; None where the footer does not say it."""
    try:
        with open_regular(path) as stream:
            footer, _ = struct(_footer(stream), 0)
        return [_chunk(group, column.encode()) for group in footer[4]]
    except UNKNOWN:
        return None


def _footer(stream: BinaryIO) -> bytes:
    end = stream.seek(0, os.SEEK_END) - _END_BYTES
    stream.seek(max(end, 0))
    last = stream.read()
    size = int.from_bytes(last[:4], "little")
    if last[4:] != _MAGIC or not size <= min(end, MOST_BYTES):
        raise ValueError(f"a footer of {size:,} bytes")
    stream.seek(end - size)
    return stream.read(size)


def _chunk(group: dict[int, Any], column: bytes) -> ColumnChunk:
    (stored,) = (chunk[3] for chunk in group[1] if b".".join(chunk[3][3]) == column)
    plain = stored[4] == _UNCOMPRESSED and 11 not in stored
    return ColumnChunk(group[3], stored[5], stored.get(12, {}).get(3), plain, stored[9], stored[7])


def struct(data: bytes, at: int) -> tuple[dict[int, Any], int]:
    """The fields of a Thrift struct by their numbers, and where it ends."""
    fields: dict[int, Any] = {}
    number = 0
    while head := data[at]:
        at += 1
        if head >> 4:
            number += head >> 4
        else:
            number, at = _integer(data, at)
        fields[number], at = _field(data, at, head & 15)
    return fields, at + 1


def _field(data: bytes, at: int, kind: int) -> tuple[Any, int]:
    if kind in (1, 2):  # true, false
        return kind == 1, at
    if kind == 3:  # a byte
        return data[at], at + 1
    if kind in (4, 5, 6):
        return _integer(data, at)
    if kind == 7:  # a double, of which none are needed
        return None, at + 8
    if kind == 8:
        length, at = varint(data, at)
        return data[at : at + length], at + length
    if kind in (9, 10):  # list, set
        return _list(data, at)
    if kind == 12:
        return struct(data, at)
    raise ValueError(f"type {kind} does not occur in Parquet")


def _list(data: bytes, at: int) -> tuple[list[Any], int]:
    head, at = data[at], at + 1
    count, kind = head >> 4, head & 15
    if count == 15:
        count, at = varint(data, at)
    values = []
    for _ in range(count):
        # The elements of a list of booleans have a byte each.
        value, at = (data[at] == 1, at + 1) if kind in (1, 2) else _field(data, at, kind)
        values.append(value)
    return values, at


def _integer(data: bytes, at: int) -> tuple[int, int]:
    value, at = varint(data, at)
    return (value >> 1) ^ -(value & 1), at


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A whole number of seven bits a byte, and where it ends."""
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 127) << shift
        shift, at = shift + 7, at + 1
        if byte < 128:
            return value, at
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
