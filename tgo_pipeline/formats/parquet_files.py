"""Parquet and Arrow from outside: what pyarrow raises for damaged or unusual bytes is one `TgoError`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

from tgo_pipeline.errors import TgoError, first_line

if TYPE_CHECKING:
    import pyarrow as pa

T = TypeVar("T")


@contextlib.contextmanager
def explained(where: object, advice: str = "", passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turn anything that is raised while Parquet is read into a `TgoError`; wrap calls of pyarrow alone in it.

    Damaged bytes reach every part of a reader: Arrow's own errors, those of text (`UnicodeDecodeError`), of numbers
    (`OverflowError`), of memory. `passing` are those of where the bytes come from, which are said elsewhere.
    """
    try:
        yield
    except (TgoError, *passing):
        raise
    except Exception as error:
        raise TgoError(f"{where} cannot be read as Parquet: {first_line(error)}.{advice}") from error


def named(schema: pa.Schema) -> pa.Schema:
    """The schema, whose names are text: Arrow decodes them only when they are asked for. Call it within `explained`."""
    _ = schema.names
    return schema


def each(
    items: Iterable[T], where: object, advice: str = "", passing: tuple[type[Exception], ...] = ()
) -> Iterator[T]:
    """The items of an iterator of pyarrow; raises as `explained` does, for its own errors alone."""
    iterator = iter(items)
    while True:
        with explained(where, advice, passing):
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item
