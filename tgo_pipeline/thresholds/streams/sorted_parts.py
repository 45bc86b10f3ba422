"""Order statistics of numbers that need not fit into memory: exact, by bisection over parts that are sorted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

Side = Literal["left", "right"]
_ALL_BUT_SIGN = 2**63 - 1


class SortedFile(NamedTuple):
    """Sorted numbers in a file."""

    path: Path
    kind: np.dtype
    start: int
    """The number of the first one in the file."""
    size: int

    def mapped(self) -> np.ndarray:
        """The numbers, of which only pages that are looked at are in memory, until the array is gone."""
        return np.memmap(self.path, self.kind, "r", self.kind.itemsize * self.start, (self.size,))


class SortedParts:
    """Finite numbers, float64 or float32, in parts that are sorted each, in memory or in files."""

    def __init__(self, parts: Iterable[np.ndarray | SortedFile]) -> None:
        self._kept = [part for part in parts if part.size]
        self.size = sum(part.size for part in self._kept)

    @property
    def _parts(self) -> list[np.ndarray]:
        """The parts; files are mapped for one question at a time, since their pages count as memory."""
        return [part.mapped() if isinstance(part, SortedFile) else part for part in self._kept]

    @cached_property
    def minimum(self) -> float:
        """The least number."""
        return min(float(part[0]) for part in self._parts)

    @cached_property
    def maximum(self) -> float:
        """The greatest number."""
        return max(float(part[-1]) for part in self._parts)

    def counts(self, points: np.ndarray | float, side: Side) -> np.ndarray:
        """How many numbers are below each of the points (M,), or with `right` at most as large."""
        return _counts(self._parts, np.asarray(points, np.float64), side)

    def at(self, ranks: Sequence[int] | np.ndarray) -> np.ndarray:
        """The numbers (M,) at these ranks, counted from 0."""
        wanted, parts = np.asarray(ranks, np.int64), self._parts
        low, high = (np.full(wanted.shape, _key(end)) for end in (self.minimum, self.maximum))
        while np.any(low < high):
            middle = (low & high) + ((low ^ high) >> 1)  # their mean, rounded down, without an overflow
            enough = _counts(parts, _number(middle), "right") > wanted
            low, high = np.where(enough, low, middle + 1), np.where(enough, middle, high)
        return _number(low) + 0.0  # a negative zero loses its sign

    def quantiles(self, shares: Sequence[float]) -> list[float]:
        """Quantiles by linear interpolation, rounded as numpy's are."""
        positions = (self.size - 1) * np.asarray(shares, np.float64)
        lower = np.floor(positions).astype(np.int64)
        ends = self.at(np.concatenate([lower, np.minimum(lower + 1, self.size - 1)]))
        low, high, part = ends[: lower.size], ends[lower.size :], positions - lower
        step = high - low
        return np.where(part < 0.5, low + step * part, high - step * (1 - part)).tolist()

    def histogram(self, edges: np.ndarray) -> np.ndarray:
        """Counts between sorted edges (M,), as `np.histogram` has them: the last bin holds its right edge too."""
        below = self.counts(edges, "left")
        below[-1] = self.counts(edges[-1:], "right")[0]
        return np.diff(below)

    def mid_ranks(self, values: np.ndarray) -> np.ndarray:
        """Share (M,) of the numbers that are below each value, half of those that equal it included."""
        return (self.counts(values, "left") + self.counts(values, "right")) / (2 * self.size)

    def mapped(self, change: Callable[[np.ndarray], np.ndarray]) -> SortedParts:
        """Other numbers in the place of these, sorted, in memory: 8 bytes each."""
        return SortedParts(np.sort(change(part.astype(np.float64))) for part in self._parts)

    def whole(self) -> np.ndarray:
        """All numbers in order, in memory: 8 bytes each."""
        found = np.concatenate([np.empty(0), *self._parts])
        found.sort()
        return found


def _counts(parts: Sequence[np.ndarray], points: np.ndarray, side: Side) -> np.ndarray:
    below = [part.searchsorted(_as(part.dtype, points, side), side) for part in parts]
    return np.asarray(np.sum(below, axis=0, dtype=np.int64))


def _as(kind: np.dtype, points: np.ndarray, side: Side) -> np.ndarray:
    """The points (M,) as numbers of this `kind`, of which as many are below (`left`), or at most as large (`right`).

    They are rounded up, or down: otherwise numpy would make float64 of all the numbers that are searched.
    """
    if kind == points.dtype:
        return points
    with np.errstate(over="ignore"):
        near = points.astype(kind)
        if side == "left":
            return np.where(near < points, np.nextafter(near, kind.type(np.inf)), near)
        return np.where(near > points, np.nextafter(near, kind.type(-np.inf)), near)


def _key(number: float) -> np.ndarray:
    """A whole number for a float: theirs have the same order."""
    bits = np.array([number], np.float64).view(np.int64)
    return bits ^ ((bits >> 63) & _ALL_BUT_SIGN)


def _number(keys: np.ndarray) -> np.ndarray:
    """The floats that whole numbers stand for."""
    return (keys ^ ((keys >> 63) & _ALL_BUT_SIGN)).view(np.float64)
