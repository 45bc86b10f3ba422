"""CSV, TSV and JSON files as a stream of rows: a file of any size is read in pieces, here or on the hub."""

from __future__ import annotations

import codecs
import csv
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from tgo_pipeline.errors import TgoError
from tgo_pipeline.reading.parquet import require
from tgo_pipeline.reading.places import Place

PIECE_BYTES = 4 * 1024**2
RECORD_CHARACTERS = 64 * 1024**2
"""A longer record of a JSON file is taken for damage."""
_SPACE = re.compile(r"\s*")
_BETWEEN = re.compile(r"\s*,?\s*")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""An escape that may be half of a surrogate pair, which JSON can hold and no text."""


def rows(place: Place, name: str, columns: Sequence[str]) -> Iterator[tuple[str, ...]]:
    """The named columns of a .csv or .tsv file with a header, row by row.

    A .tsv file is split at tabs alone: its quotes are text, as PartiPrompts needs. Raises `TgoError` if the file is
    missing or broken, or lacks a column.
    """
    tabs = name.endswith(".tsv")
    with place.open(name) as stream:
        reader = csv.reader(
            _lines(place, name, stream),
            delimiter="\t" if tabs else ",",
            quoting=csv.QUOTE_NONE if tabs else csv.QUOTE_MINIMAL,
        )
        try:
            header = next(reader, [])
            require(place.where(name), columns, header)
            at = [header.index(column) for column in columns]
            for row in reader:
                if row:
                    yield tuple(row[i] for i in at)
        except (csv.Error, IndexError) as error:
            raise TgoError(
                f"{place.where(name)}, line {reader.line_num}: not as many values as columns, or broken quotes "
                f"({error})."
            ) from error


def records(place: Place, name: str, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """The objects of a JSON array, or of JSON lines, each with the named keys; raises as `rows` does."""
    for number, value in enumerate(values(place, name)):
        where = f"{place.where(name)}, record {number}"
        if not isinstance(value, dict):
            raise TgoError(f"{where} is a JSON {type(value).__name__}, not an object.")
        require(where, columns, list(value))
        yield value


def values(place: Place, name: str) -> Iterator[Any]:
    """The values of a JSON array, or of JSON lines, one after another; raises as `rows` does.

    Half a surrogate pair, as a prompt cut in the middle of an emoji has it, becomes U+FFFD.
    """
    with place.open(name) as stream:
        try:
            yield from _values(_pieces(place, name, stream))
        except ValueError as error:
            raise TgoError(f"{place.where(name)} is not JSON, or not all of it is there: {error}.") from error


def _values(pieces: Iterator[str]) -> Iterator[Any]:
    """Decode value by value; raises `ValueError` if the text ends within one, or an array has no end."""
    decoder = json.JSONDecoder()
    held = next(pieces, "")
    position = _end(_SPACE, held, 0)
    array = held.startswith("[", position)
    position += array
    while True:
        position = _end(_BETWEEN, held, position)
        if array and held.startswith("]", position):
            return
        try:
            value, end = decoder.raw_decode(held, position)
        except json.JSONDecodeError as error:
            piece = next(pieces, None)
            if piece is None and not array and position == len(held):
                return
            if piece is None or len(held) - position > RECORD_CHARACTERS:
                raise ValueError(f"{error.msg} in {held[error.pos : error.pos + 40]!r}") from error
            held, position = held[position:] + piece, 0
        else:
            yield _well_formed(value) if _HALF.search(held, position, end) else value
            position = end


def _well_formed(value: Any) -> Any:
    """A JSON value whose texts have U+FFFD for every half of a surrogate pair."""
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_well_formed(each) for each in value]
    if isinstance(value, dict):
        return {_well_formed(key): _well_formed(each) for key, each in value.items()}
    return value


def _end(pattern: re.Pattern[str], text: str, position: int) -> int:
    match = pattern.match(text, position)
    return match.end() if match else position


def _lines(place: Place, name: str, stream: BinaryIO) -> Iterator[str]:
    """Lines with their ends."""
    tail = ""
    for piece in _pieces(place, name, stream):
        *whole, tail = (tail + piece).split("\n")
        for line in whole:
            yield f"{line}\n"
    if tail:
        yield tail


def _pieces(place: Place, name: str, stream: BinaryIO) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    try:
        while data := stream.read(PIECE_BYTES):
            yield decoder.decode(data)
        yield decoder.decode(b"", final=True)
    except UnicodeDecodeError as error:
        raise TgoError(f"{place.where(name)} is not text in UTF-8 ({error}).") from error
