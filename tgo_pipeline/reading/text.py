"""Text files and JSON values as a stream: a file of any size is read in pieces, here or on the hub."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from json import JSONDecodeError
from typing import Any, TextIO, cast

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.json_text import DECODER, reason
from tgo_pipeline.reading.parquet import require
from tgo_pipeline.reading.places import Place

PIECE_BYTES = 4 * 1024**2
"""What is read at a time: few requests where a file lies on the hub, and little memory."""
PROBED_BYTES = 4096
"""Where a binary file shows by its null bytes."""
RECORD_CHARACTERS = 64 * 1024**2
"""A longer record of a JSON file, or line of a table, is taken for damage."""
_SPACE = re.compile(r"\s*")
_BETWEEN = re.compile(r"\s*,?\s*")
_HALF = re.compile(r"\\u[dD][89a-fA-F]")
"""An escape that may be half of a surrogate pair, which JSON can hold and no text."""


@contextlib.contextmanager
def opened(place: Place, name: str, newline: str | None = None) -> Iterator[TextIO]:
    """A file in UTF-8, with or without a byte order mark; `newline` is that of Python's `open`.

    Raises `TgoError` if it is missing, binary or of another encoding, here or while it is read.
    """
    with place.open(name) as raw:
        # of the hub, a piece is one request; TextIOWrapper itself asks for 8 kB at a time
        stream = io.BufferedReader(cast(io.RawIOBase, raw), PIECE_BYTES)
        try:
            if b"\0" in stream.peek(PROBED_BYTES)[:PROBED_BYTES]:
                raise TgoError(f"{place.where(name)} is binary, not text: name a text file in UTF-8.")
            with io.TextIOWrapper(stream, encoding="utf-8-sig", newline=newline) as decoded:
                yield decoded
        except UnicodeDecodeError as error:
            raise TgoError(
                f"{place.where(name)} is not text in UTF-8 ({error}): save it as UTF-8."
            ) from error


def lines(stream: TextIO, where: str) -> Iterator[str]:
    """The lines of a file. Raises `TgoError` for one that is too long to be a row: it would be held as a whole."""
    for number, line in enumerate(iter(lambda: stream.readline(RECORD_CHARACTERS), ""), start=1):
        if len(line) == RECORD_CHARACTERS:
            raise TgoError(
                f"{where}, line {number}: is longer than {RECORD_CHARACTERS:,} characters, so it is no table of rows."
            )
        yield line


def records(place: Place, name: str, columns: Sequence[str]) -> Iterator[Mapping[str, Any]]:
    """The objects of a JSON array, or of JSON lines, each with the named keys; raises as `opened` does."""
    for number, value in enumerate(values(place, name)):
        where = f"{place.where(name)}, record {number}"
        if not isinstance(value, dict):
            raise TgoError(f"{where} is a JSON {type(value).__name__}, not an object.")
        require(where, columns, list(value))
        yield value


def values(place: Place, name: str) -> Iterator[Any]:
    """The values of a JSON array, or of JSON lines, one after another; raises as `opened` does.

    Half a surrogate pair, as a prompt cut in the middle of an emoji has it, becomes U+FFFD.
    """
    with opened(place, name, newline="") as stream:
        try:
            yield from _values(iter(lambda: stream.read(PIECE_BYTES), ""))
        except UnicodeDecodeError:
            raise
        except (ValueError, RecursionError) as error:
            raise TgoError(
                f"{place.where(name)} is not JSON, or not all of it is there: {reason(error)}."
            ) from error


def _values(pieces: Iterator[str]) -> Iterator[Any]:
    """Decode value by value; raises `ValueError` if the text ends within one, or an array has no end."""
    held = next(pieces, "")
    position = _end(_SPACE, held, 0)
    array = held.startswith("[", position)
    position += array
    while True:
        position = _end(_BETWEEN, held, position)
        if array and held.startswith("]", position):
            return
        try:
            value, end = DECODER.raw_decode(held, position)
        except JSONDecodeError as error:
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
