"""One score a sample, prompt by prompt, on disk: parts of whole prompts go through a few threads, and sums come out.

What has one number a sample is streamed; what has one number a prompt is in memory.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from tgo_pipeline.executors.aside import ahead
from tgo_pipeline.thresholds.streams.groups import Groups
from tgo_pipeline.thresholds.streams.sorted_parts import SortedParts

R = TypeVar("R")
T = TypeVar("T")


SORTED_ROWS = 4_000_000
"""Scores that are put in order together, in memory: few long pieces are searched faster than many short ones."""


@dataclass(frozen=True)
class ColumnPart:
    """Some prompts of a column."""

    start: int
    """Where their scores begin in its file."""
    sizes: np.ndarray
    """Scores of each prompt (G,), none of them 0."""
    kept: np.ndarray
    """Which prompts (P,) of the rows have a score."""

    @property
    def stop(self) -> int:
        """Where their scores end."""
        return self.start + int(self.sizes.sum())


def write_part(descriptor: int, start: int, values: np.ndarray, sizes: np.ndarray) -> ColumnPart:
    """Write the finite ones of `values` (N,) of prompts of `sizes` (P,), sorted within each prompt, from `start` on."""
    usable = np.isfinite(values)
    if not usable.all():
        sizes = np.add.reduceat(usable, np.cumsum(sizes) - sizes, dtype=np.int64)
        values = values[usable]
    kept = sizes > 0
    _sort_within(values, sizes[kept])
    _write_at(descriptor, values, start)
    return ColumnPart(start, sizes[kept], kept)


def _write_at(descriptor: int, values: np.ndarray, start: int) -> None:
    """Write all of `values` (N,) from the place `start` on; threads do it at once.

    On a full disk one call writes less and says so, and the next one raises.
    """
    rest, place = values.view(np.uint8).data, 8 * start
    while rest:
        written = os.pwrite(descriptor, rest, place)
        rest, place = rest[written:], place + written


def _sort_within(values: np.ndarray, sizes: np.ndarray) -> None:
    """Sort the values (N,) of each prompt in place; prompts of one size at a time, as the rows of a matrix."""
    starts = np.cumsum(sizes) - sizes
    for size in np.unique(sizes).tolist():
        of_size = starts[sizes == size]
        if of_size.size == sizes.size:
            values.reshape(-1, size).sort(axis=1)
            return
        places = of_size[:, None] + np.arange(size)
        values[places] = np.sort(values[places], axis=1)


class ScoreColumn:
    """The finite scores of one reward or combination."""

    def __init__(
        self,
        name: str,
        path: Path,
        parts: Sequence[ColumnPart],
        threads: int,
        n_null: int = 0,
        n_nonfinite: int = 0,
    ) -> None:
        """`path` holds what `write_part` has written of the parts."""
        self.name, self.parts, self.n_null, self.n_nonfinite = name, parts, n_null, n_nonfinite
        self._path, self._threads = path, threads
        self.n = sum(int(part.sizes.sum()) for part in parts)
        self._scores = np.memmap(path, np.float64, "r") if self.n else np.empty(0)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Scores of each prompt (G,)."""
        return np.concatenate([np.empty(0, np.int64), *(part.sizes for part in self.parts)])

    @cached_property
    def ordered(self) -> SortedParts:
        """The scores, whatever their prompts."""
        path = self._path.with_suffix(".ordered")

        def write(parts: Sequence[ColumnPart]) -> np.ndarray:
            scores = np.concatenate([self._scores[part.start : part.stop] for part in parts])
            scores.sort()
            _write_at(file.fileno(), scores, parts[0].start)
            return np.memmap(path, np.float64, "r", 8 * parts[0].start, scores.shape)

        with path.open("wb") as file:
            return SortedParts(self.together(write, self._pieces()))

    def _pieces(self) -> Iterator[list[ColumnPart]]:
        """The parts, several together."""
        with_scores = (part for part in self.parts if part.sizes.size)
        for _, piece in itertools.groupby(with_scores, lambda part: part.start // SORTED_ROWS):
            yield list(piece)

    def groups(self, part: ColumnPart) -> Groups:
        """The scores of a part, mapped from their file."""
        return Groups(self._scores[part.start : part.stop], np.cumsum(part.sizes) - part.sizes, part.sizes)

    @property
    def is_constant(self) -> bool:
        """Whether all scores are equal."""
        return self.ordered.minimum == self.ordered.maximum

    def each(self, measure: Callable[[Groups], R]) -> Iterator[R]:
        """What is measured of every part, in order, by threads: numpy works without Python's lock."""
        parts = (part for part in self.parts if part.sizes.size)
        return self.together(lambda part: measure(self.groups(part)), parts)

    def together(self, measure: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """What is measured of several things, by threads: of steps over all prompts, too, which are not in parts."""
        return ahead(measure, items, self._threads, self._threads)

    def total(self, measure: Callable[[Groups], np.ndarray | float]) -> np.ndarray:
        """The sum over parts of what is measured of each, in the same order whatever the threads."""
        return np.sum(np.array(list(self.each(measure))), axis=0)

    def per_prompt(self, measure: Callable[[Groups], np.ndarray]) -> np.ndarray:
        """What is measured of each prompt (G,)."""
        return np.concatenate(list(self.each(measure)))

    per_sample = per_prompt
    """What is measured of some samples, or of all: it has to fit into memory."""

    @cached_property
    def mean(self) -> float:
        """Of all scores."""
        return float(self.total(lambda groups: groups.values.sum())) / self.n

    @cached_property
    def means(self) -> np.ndarray:
        """Of each prompt (G,)."""
        return self.per_prompt(Groups.means)

    @cached_property
    def squares(self) -> np.ndarray:
        """Sum of squared deviations from its mean of each prompt (G,)."""
        return self.per_prompt(Groups.squares)

    @cached_property
    def variance(self) -> float:
        """Of all scores (n in the denominator); exactly 0 where they are equal, which rounding may hide."""
        if self.is_constant:
            return 0.0
        mean = self.mean
        return float(self.total(lambda groups: np.sum((groups.values - mean) ** 2))) / self.n

    def take(self, places: np.ndarray) -> np.ndarray:
        """The scores (M,) that stand at `places` in the order of prompts."""
        counts = np.array([int(part.sizes.sum()) for part in self.parts])
        ends, starts = np.cumsum(counts), np.array([part.start for part in self.parts])
        owner = ends.searchsorted(places, side="right")
        return self._scores[places + (starts - ends + counts)[owner]]

    def remove(self) -> None:
        """Take the files away."""
        self._path.unlink()
        self._path.with_suffix(".ordered").unlink(missing_ok=True)

    @contextlib.contextmanager
    def repeated(self) -> Iterator[ScoreColumn]:
        """The prompts with two scores or more; this column where that is all of them."""
        if self.sizes.min(initial=2) >= 2:
            yield self
            return
        with tempfile.NamedTemporaryFile(dir=self._path.parent) as file:

            def write(part: ColumnPart) -> ColumnPart:
                groups, sizes = self.groups(part), part.sizes[part.sizes >= 2]
                return write_part(
                    file.fileno(), part.start, groups.values[groups.spread(part.sizes >= 2)], sizes
                )

            parts = list(self.together(write, self.parts))
            column = ScoreColumn(self.name, Path(file.name), parts, self._threads)
            yield column
            Path(file.name).with_suffix(".ordered").unlink()
