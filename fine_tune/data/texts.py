"""Columns of texts of millions of rows, in the bytes that Arrow takes: a list of Python's takes three times as many."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, overload

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa

ROWS_AT_ONCE = 1 << 16
"""Texts that are Python's at a time."""
SOUGHT_AT_ONCE = 1 << 20
"""Texts that are looked for at a time: each takes a hundred bytes meanwhile."""


def release() -> None:
    """Give back what Arrow keeps for later: after ten million texts were joined that is a gigabyte."""
    import pyarrow as pa

    pa.default_memory_pool().release_unused()


class Texts(Sequence[str]):
    """Texts as a sequence."""

    def __init__(self, texts: Sequence[str] | pa.Array | pa.ChunkedArray, *, repeat: bool = False) -> None:
        """With `repeat` each distinct text is held once, and a number for every row."""
        import pyarrow as pa

        given: Any = texts
        if isinstance(given, pa.ChunkedArray):
            given = given.unify_dictionaries().combine_chunks()
        # Offsets of 8 bytes: 100 million ids are more bytes than 4 can count.
        array = given if isinstance(given, pa.Array) else pa.array(given, pa.large_string())
        if array.type == pa.string():
            array = array.cast(pa.large_string())
        self._array = array.dictionary_encode() if repeat else array

    @classmethod
    def joined(cls, parts: Sequence[Texts]) -> Texts:
        """The texts of all parts, one after the other; all of them with `repeat`, or none."""
        import pyarrow as pa

        if not parts:
            return cls([])
        return cls(pa.chunked_array([part._array for part in parts]))

    def __len__(self) -> int:
        return len(self._array)

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> Texts: ...
    def __getitem__(self, place: int | slice) -> str | Texts:
        if isinstance(place, slice):
            return Texts(self._array[place])
        return self._array[int(place)].as_py()

    def __iter__(self) -> Iterator[str]:
        for start in range(0, len(self), ROWS_AT_ONCE):
            yield from self._array[start : start + ROWS_AT_ONCE].to_pylist()

    @property
    def missing(self) -> int:
        """How many of them are null."""
        return self._array.null_count

    def take(self, rows: np.ndarray) -> Texts:
        """The texts of these rows, in this order."""
        return Texts(self._array.take(rows))

    def order(self) -> np.ndarray:
        """(N,) rows in the order of their texts, which is that of their code points."""
        import pyarrow.compute as pc

        return pc.call_function("sort_indices", [self._array]).to_numpy()

    def repeated(self) -> str | None:
        """The first text that follows itself."""
        import pyarrow.compute as pc

        same = pc.call_function("equal", [self._array[1:], self._array[:-1]]).to_numpy(zero_copy_only=False)
        return self[int(np.argmax(same))] if same.any() else None

    def distinct(self) -> list[str]:
        """Each text once, in no order."""
        array = self._array if hasattr(self._array, "dictionary") else self._array.dictionary_encode()
        is_used = np.bincount(array.indices.to_numpy(), minlength=len(array.dictionary)) > 0
        return array.dictionary.take(np.flatnonzero(is_used)).to_pylist()

    @functools.cached_property
    def numbers(self) -> np.ndarray:
        """(N,) of each text its number among the distinct ones, from 0 in their order."""
        import pyarrow as pa

        array = (
            self._array if isinstance(self._array, pa.DictionaryArray) else self._array.dictionary_encode()
        )
        held = array.indices.to_numpy()
        is_used = np.bincount(held, minlength=len(array.dictionary)) > 0
        order = Texts(array.dictionary).order()
        numbers = np.empty(len(order), np.int64)
        numbers[order] = np.cumsum(is_used[order]) - 1
        return numbers[held]

    def places_in(self, others: Texts) -> np.ndarray:
        """(N,) the row of each text among others that differ from each other, -1 where it is not there.

        By 64-bit hashes, held against the texts themselves: a table of ten million texts, as of `pc.index_in`, takes
        2 GB and twice the time.
        """
        if not len(others):
            return np.full(len(self), -1)
        hashes = others._hashes()
        order = np.argsort(hashes)
        hashes = hashes[order]
        parts = range(0, len(self), SOUGHT_AT_ONCE)
        found = [self[start : start + SOUGHT_AT_ONCE]._places(others, hashes, order) for start in parts]
        return np.concatenate([np.empty(0, np.int64), *found])

    def _places(self, others: Texts, hashes: np.ndarray, order: np.ndarray) -> np.ndarray:
        """`places_in` others whose hashes are given in the order of `order`."""
        import pyarrow.compute as pc

        ours = self._hashes()
        asked = np.argsort(ours)
        at = np.searchsorted(hashes, ours[asked])  # in order: ten times as fast as here and there
        found = np.empty(len(self), np.int64)
        found[asked] = order[np.minimum(at, len(order) - 1)]
        is_same = pc.call_function("equal", [others._array.take(found), self._array])
        is_other = ~is_same.to_numpy(zero_copy_only=False)
        if is_other.any():  # it is not there, or two texts have one hash
            rows = np.flatnonzero(is_other)
            exact = pc.call_function("index_in", [self._array.take(rows)], pc.SetLookupOptions(others._array))
            found[rows] = exact.fill_null(-1).to_numpy()
        return found

    def _hashes(self) -> np.ndarray:
        import polars as pl

        return pl.Series(self._array).hash().to_numpy()

    def lines(self) -> Iterator[bytes]:
        """The texts with a line break between each two, in pieces."""
        import pyarrow as pa
        import pyarrow.compute as pc

        for start in range(0, len(self), ROWS_AT_ONCE):
            piece = self._array[start : start + ROWS_AT_ONCE].cast(pa.string())
            whole = pa.ListArray.from_arrays(pa.array([0, len(piece)], pa.int32()), piece)
            yield b"\n" * (start > 0) + pc.call_function("binary_join", [whole, "\n"])[0].as_py().encode()
