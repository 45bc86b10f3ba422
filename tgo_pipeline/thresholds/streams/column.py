"""One score a sample, prompt by prompt, on disk: parts of whole prompts go through a few threads, and sums come out.

What has one number a sample is streamed; what has one number a prompt is in memory.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np

from tgo_pipeline.executors.aside import ahead
from tgo_pipeline.thresholds.streams.groups import Groups, by_rank_of_runs, dot, ranges, sorted_runs
from tgo_pipeline.thresholds.streams.sorted_parts import SortedFile, SortedParts
from tgo_pipeline.thresholds.streams.tally import PromptTally

R = TypeVar("R")
T = TypeVar("T")


SORTED_ROWS = 4_000_000
"""Scores that are put in order together, in memory: few long pieces are searched faster than many short ones."""
EQUAL_PROMPTS = 500
"""Prompts of one size in a part from which their scores stand rank by rank: fewer do not make up for another part."""
Places = slice | np.ndarray


@dataclass(frozen=True)
class ColumnPart:
    """Some prompts of a column."""

    start: int
    """Where their scores begin in its file."""
    sizes: np.ndarray
    """Scores of each prompt (G,), none of them 0."""
    by_rank: bool
    """Whether their scores stand as `Groups.by_rank` has them."""
    places: Places
    """Which prompts (G,) they are, among those of the block that have a score."""
    first: int = 0
    """Such prompts of the column before the block."""

    @property
    def stop(self) -> int:
        """Where their scores end."""
        return self.start + int(self.sizes.sum())

    @property
    def prompts(self) -> Places:
        """Which prompts (G,) they are, among all of the column."""
        if isinstance(self.places, slice):
            return slice(self.first + self.places.start, self.first + self.places.stop)
        return self.first + self.places

    def groups(self, values: np.ndarray) -> Groups:
        """Their scores, as read from the file."""
        if self.by_rank:
            return Groups.by_rank(values, self.sizes)
        return Groups(values, np.cumsum(self.sizes) - self.sizes, self.sizes)


@dataclass(frozen=True)
class ColumnBlock:
    """Neighbouring prompts of a column: the prompts of every frequent size are a part of their own, others the last."""

    parts: Sequence[ColumnPart]
    kept: np.ndarray
    """Which prompts (P,) of the rows have a score."""


def write_block(descriptor: int, start: int, values: np.ndarray, sizes: np.ndarray) -> ColumnBlock:
    """Write the finite ones of `values` (N,) of prompts of `sizes` (P,), sorted within each prompt, from `start` on."""
    usable = np.isfinite(values)
    if not usable.all():
        sizes = np.add.reduceat(usable, np.cumsum(sizes) - sizes, dtype=np.int64)
        values = values[usable]
    kept, parts = sizes > 0, []
    sizes = sizes[kept] if not kept.all() else sizes
    starts = np.cumsum(sizes) - sizes
    for places, by_rank in _classes(sizes):
        part = ColumnPart(start, sizes[places], by_rank, places)
        own = values if isinstance(places, slice) else values[ranges(starts[places], part.sizes)]
        _write_at(
            descriptor,
            by_rank_of_runs(own, part.sizes.size) if by_rank else sorted_runs(own, part.sizes),
            start,
        )
        parts.append(part)
        start = part.stop
    return ColumnBlock(parts, kept)


def _classes(sizes: np.ndarray) -> Iterator[tuple[Places, bool]]:
    """Which of these prompts stand together, and whether by rank: those of a frequent size do, and all of one score."""
    counts = np.bincount(sizes)
    rest = np.ones(sizes.size, bool)
    for size in np.flatnonzero(counts).tolist():
        if counts[size] == sizes.size:
            yield slice(0, sizes.size), True
            return
        if size == 1 or counts[size] >= EQUAL_PROMPTS:
            places = np.flatnonzero(sizes == size).astype(np.int32)
            rest[places] = False
            yield places, True
    if rest.any():
        yield np.flatnonzero(rest).astype(np.int32), False


def _write_at(descriptor: int, values: np.ndarray, start: int) -> None:
    """Write all of `values` (N,) from the place `start` on; threads do it at once.

    On a full disk one call writes less and says so, and the next one raises.
    """
    rest, place = values.view(np.uint8).data, values.itemsize * start
    while rest:
        written = os.pwrite(descriptor, rest, place)
        rest, place = rest[written:], place + written


class ScoreColumn:
    """The finite scores of one reward or combination."""

    def __init__(
        self,
        name: str,
        path: Path,
        blocks: Sequence[ColumnBlock],
        kind: np.dtype,
        threads: int,
        n_null: int = 0,
        n_nonfinite: int = 0,
    ) -> None:
        """`path` holds what `write_block` has written of the blocks, numbers of this `kind`."""
        self.name, self.blocks, self.n_null, self.n_nonfinite = name, blocks, n_null, n_nonfinite
        self._path, self._kind, self._threads = path, kind, threads
        firsts = itertools.accumulate((int(block.kept.sum()) for block in blocks), initial=0)
        self.parts = [
            dataclasses.replace(part, first=first)
            for block, first in zip(blocks, firsts, strict=False)
            for part in block.parts
        ]
        self.n = sum(int(part.sizes.sum()) for part in self.parts)

    @cached_property
    def sizes(self) -> np.ndarray:
        """Scores of each prompt (G,)."""
        return self._in_order(part.sizes for part in self.parts)

    @cached_property
    def ordered(self) -> SortedParts:
        """The scores, whatever their prompts."""
        path = self._path.with_suffix(".ordered")

        def write(parts: Sequence[ColumnPart]) -> SortedFile:
            scores = np.concatenate([self._read(part) for part in parts])
            scores.sort()
            _write_at(file.fileno(), scores, parts[0].start)
            return SortedFile(path, self._kind, parts[0].start, scores.size)

        with path.open("wb") as file:
            return SortedParts(self.together(write, self._pieces()))

    def _read(self, part: ColumnPart) -> np.ndarray:
        return np.fromfile(
            self._path, self._kind, part.stop - part.start, offset=self._kind.itemsize * part.start
        )

    def _pieces(self) -> Iterator[list[ColumnPart]]:
        """The parts, several together."""
        for _, piece in itertools.groupby(self.parts, lambda part: part.start // SORTED_ROWS):
            yield list(piece)

    def groups(self, part: ColumnPart) -> Groups:
        """The scores of a part, as float64."""
        return part.groups(self._read(part).astype(np.float64, copy=False))

    @property
    def is_constant(self) -> bool:
        """Whether all scores are equal."""
        return self.ordered.minimum == self.ordered.maximum

    def each(self, measure: Callable[[Groups], R]) -> Iterator[R]:
        """What is measured of every part, in order, by threads: numpy works without Python's lock."""
        return self.together(lambda part: measure(self.groups(part)), self.parts)

    def together(self, measure: Callable[[T], R], items: Iterable[T]) -> Iterator[R]:
        """What is measured of several things, by threads: of steps over all prompts, too, which are not in parts."""
        return ahead(measure, items, self._threads, self._threads)

    def total(self, measure: Callable[[Groups], np.ndarray | float]) -> np.ndarray:
        """The sum over parts of what is measured of each, in the same order whatever the threads."""
        return np.sum(np.array(list(self.each(measure))), axis=0)

    def per_prompt(self, measure: Callable[[Groups], np.ndarray]) -> np.ndarray:
        """What is measured of each prompt (G,)."""
        return self._in_order(self.each(measure))

    def per_prompts(
        self, measure: Callable[[Groups], tuple[Sequence[np.ndarray], R]]
    ) -> tuple[list[np.ndarray], list[R]]:
        """Several things of each prompt (G,), and what else is measured of every part, at one reading.

        They are put into their places one part after the other: of many small arrays memory would stay behind.
        """
        whole: list[np.ndarray] = []
        rest: list[R] = []
        for part, (arrays, other) in zip(self.parts, self.each(measure), strict=True):
            whole = whole or [np.empty(self._prompts, array.dtype) for array in arrays]
            for one, array in zip(whole, arrays, strict=True):
                one[part.prompts] = array
            rest.append(other)
        return whole, rest

    def tallies(self, flags: Sequence[Callable[[np.ndarray], np.ndarray]]) -> list[PromptTally]:
        """How many scores of a prompt are flagged, for each of several ways to flag scores (N,)."""

        def count(groups: Groups) -> list[PromptTally]:
            return [PromptTally.of(groups.count(flagged(groups.values)), groups.sizes) for flagged in flags]

        return [PromptTally.joined(parts) for parts in zip(*self.each(count), strict=True)]

    def _in_order(self, found: Iterable[np.ndarray]) -> np.ndarray:
        """What was found of the prompts of each part, in the order of all prompts (G,)."""
        whole = np.empty(0, np.int64)
        for part, values in zip(self.parts, found, strict=True):
            whole = whole if whole.size else np.empty(self._prompts, values.dtype)
            whole[part.prompts] = values
        return whole

    @property
    def _prompts(self) -> int:
        return sum(part.sizes.size for part in self.parts)

    @cached_property
    def mean(self) -> float:
        """Of all scores."""
        return sum(self._looked[1]) / self.n

    @cached_property
    def means(self) -> np.ndarray:
        """Of each prompt (G,)."""
        return self._looked[0][0]

    @cached_property
    def squares(self) -> np.ndarray:
        """Sum of squared deviations from its mean of each prompt (G,)."""
        return self._looked[0][1]

    @cached_property
    def _looked(self) -> tuple[list[np.ndarray], list[float]]:
        """`means` and `squares`, and the sum of the scores of each part, at one reading."""

        def look(groups: Groups) -> tuple[list[np.ndarray], float]:
            means = groups.means()
            return [means, groups.squares(means)], float(groups.values.sum())

        return self.per_prompts(look)

    @cached_property
    def powers(self) -> tuple[float, float, float]:
        """Sums of squared, third and fourth powers of deviations from the mean."""
        mean = self.mean

        def look(groups: Groups) -> np.ndarray:
            centred = groups.values - mean
            squares = np.square(centred)
            return np.array([squares.sum(), dot(squares, centred), dot(squares, squares)])

        second, third, fourth = self.total(look).tolist()
        return second, third, fourth

    @cached_property
    def variance(self) -> float:
        """Of all scores (n in the denominator); exactly 0 where they are equal, which rounding may hide."""
        if self.is_constant:
            return 0.0
        return self.powers[0] / self.n

    def take(self, prompts: np.ndarray, ranks: np.ndarray) -> np.ndarray:
        """The scores (M,) of these ranks among those of their prompts."""
        nothing = np.empty(0)
        first = self._in_order(part.start + part.groups(nothing).starts for part in self.parts)
        step = self._in_order(np.full(part.sizes.size, part.groups(nothing).stride) for part in self.parts)
        places, found = first[prompts] + ranks * step[prompts], np.empty(prompts.size)
        for start in range(
            0, self.parts[-1].stop, SORTED_ROWS
        ):  # of a mapped file all pages would stay in memory
            here = np.flatnonzero((places >= start) & (places < start + SORTED_ROWS))
            scores = np.fromfile(self._path, self._kind, SORTED_ROWS, offset=self._kind.itemsize * start)
            found[here] = scores[places[here] - start]
        return found

    def remove(self) -> None:
        """Take the files away."""
        self._path.unlink()
        self._path.with_suffix(".ordered").unlink(missing_ok=True)

    @contextlib.contextmanager
    def repeated(self) -> Iterator[ScoreColumn]:
        """The prompts with two scores or more, of the same file; this column where that is all of them."""
        if self.sizes.min(initial=2) >= 2:
            yield self
            return
        path = self._path.with_stem(f"{self._path.stem}-repeated")
        path.hardlink_to(self._path)
        column = ScoreColumn(self.name, path, list(map(_repeated, self.blocks)), self._kind, self._threads)
        yield column
        column.remove()


def _repeated(block: ColumnBlock) -> ColumnBlock:
    """The block without prompts of one score, which are in a part of their own."""
    sizes = np.zeros(int(block.kept.sum()), np.int64)
    for part in block.parts:
        sizes[part.places] = part.sizes
    is_kept, kept = sizes > 1, block.kept.copy()
    kept[kept] = is_kept
    number = np.cumsum(is_kept, dtype=np.int32) - 1
    parts = [
        dataclasses.replace(part, places=number[part.places]) for part in block.parts if part.sizes[0] > 1
    ]
    return ColumnBlock(parts, kept)
