"""Order statistics of numbers that need not fit into memory: exact, by bisection over parts that are sorted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np

Side = Literal["left", "right"]
_ALL_BUT_SIGN = 2**63 - 1


class SortedParts:
    """Finite numbers, float64 or float32, in arrays that are sorted each, and may be mapped from files: few pages are
    looked at."""

    def __init__(self, parts: Iterable[np.ndarray]) -> None:
        self._parts = [part for part in parts if part.size]
        self.size = sum(part.size for part in self._parts)

    @property
    def minimum(self) -> float:
        """The least number."""
        return min(float(part[0]) for part in self._parts)

    @property
    def maximum(self) -> float:
        """The greatest number."""
        return max(float(part[-1]) for part in self._parts)

    def counts(self, points: np.ndarray | float, side: Side) -> np.ndarray:
        """How many numbers are below each of the points (M,), or with `right` at most as large."""
        points = np.asarray(points, np.float64)
        below = [part.searchsorted(_as(part.dtype, points, side), side) for part in self._parts]
        return np.asarray(np.sum(below, axis=0, dtype=np.int64))

    def at(self, ranks: Sequence[int] | np.ndarray) -> np.ndarray:
        """The numbers (M,) at these ranks, counted from 0."""
        wanted = np.asarray(ranks, np.int64)
        low, high = (np.full(wanted.shape, _key(end)) for end in (self.minimum, self.maximum))
        while np.any(low < high):
            middle = (low & high) + ((low ^ high) >> 1)  # their mean, rounded down, without an overflow
            enough = self.counts(_number(middle), "right") > wanted
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
