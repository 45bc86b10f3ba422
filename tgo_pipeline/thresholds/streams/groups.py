"""Scores of some prompts in memory, those of a prompt in order."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Groups:
    """Scores by prompt, and in order of score within it.

    They stand prompt by prompt (`stride` 1), or, where all prompts have equally many, rank by rank: the least of every
    prompt, then the second of every prompt, and so on. Sums over prompts are then sums of long rows, and values of all
    prompts are repeated as a whole: several times faster than short runs. The order of additions is the same.
    """

    values: np.ndarray
    starts: np.ndarray
    """Where the least score of each group (G,) stands."""
    sizes: np.ndarray
    stride: int = 1
    """From a score of a group to its next larger one; G where they stand rank by rank."""

    @classmethod
    def of(cls, values: np.ndarray, prompts: np.ndarray) -> Groups:
        """Group `values` (n,) by whole numbers `prompts` (n,); only the prompts that occur make a group."""
        return cls.ordered(values, prompts)[0]

    @classmethod
    def ordered(cls, values: np.ndarray, prompts: np.ndarray) -> tuple[Groups, np.ndarray]:
        """The groups, and where each of their samples (n,) stands in `values`."""
        order = np.lexsort((values, prompts))
        owner = prompts[order]
        starts = np.flatnonzero(np.diff(owner, prepend=owner[:1] - 1))
        return cls(values[order], starts, np.diff(starts, append=owner.size)), order

    @classmethod
    def of_runs(cls, values: np.ndarray, sizes: np.ndarray) -> Groups:
        """Groups of `sizes` (G,) whose `values` follow each other, in any order within each."""
        if sizes.min() < sizes.max():
            return cls(sorted_runs(values, sizes), np.cumsum(sizes) - sizes, sizes)
        return cls.by_rank(by_rank_of_runs(values, sizes.size), sizes)

    @classmethod
    def by_rank(cls, values: np.ndarray, sizes: np.ndarray) -> Groups:
        """Groups of equal `sizes` (G,) whose `values` stand rank by rank."""
        return cls(values, np.arange(sizes.size), sizes, sizes.size)

    @cached_property
    def of_samples(self) -> tuple[int, ...]:
        """The shape of `values` whose first axis is that of ranks, if it has one."""
        return (-1,) if self.stride == 1 else (-1, self.stride)

    def total(self, per_sample: np.ndarray) -> np.ndarray:
        """The sum of one value per sample (N,) over each group (G,)."""
        if self.stride == 1:
            return np.add.reduceat(per_sample, self.starts)
        lines = per_sample.reshape(self.of_samples)
        return lines[0] + _pairwise(lines[1:]) if len(lines) > 1 else lines[0].copy()

    def count(self, flags: np.ndarray) -> np.ndarray:
        """How many samples of each group (G,) are flagged in `flags` (N,)."""
        if self.stride == 1:
            return np.add.reduceat(flags, self.starts, dtype=np.int64)
        narrow = np.uint8 if flags.size // self.stride < 256 else np.int64  # eight times as many at once
        return flags.view(np.uint8).reshape(self.of_samples).sum(axis=0, dtype=narrow).astype(np.int64)

    def spread(self, per_group: np.ndarray) -> np.ndarray:
        """One value per group, repeated for each of its samples."""
        if self.stride == 1:
            return np.repeat(per_group, self.sizes)
        return np.tile(per_group, self.values.size // self.stride)

    def ranks(self) -> np.ndarray:
        """The rank of each sample (N,) in its group, from 0."""
        if self.stride == 1:
            return np.arange(self.values.size) - self.spread(self.starts)
        return np.repeat(np.arange(self.values.size // self.stride), self.stride)

    def places(self, ranks: np.ndarray | int) -> np.ndarray:
        """Where the scores of these ranks, one for each group (G,), stand in `values`."""
        return self.starts + self.stride * ranks

    def leasts(self) -> np.ndarray:
        """Smallest score of each group."""
        return self.values[self.starts]

    def tops(self) -> np.ndarray:
        """Largest score of each group."""
        return self.values[self.places(self.sizes - 1)]

    def means(self) -> np.ndarray:
        """Mean of each group; exact where all of a group's scores are equal."""
        least = self.leasts()
        above = self.spread(least)
        np.subtract(self.values, above, out=above)
        return least + self.total(above) / self.sizes

    def medians(self) -> np.ndarray:
        """Median of each group."""
        low = self.values[self.places((self.sizes - 1) // 2)]
        return low + (self.values[self.places(self.sizes // 2)] - low) / 2

    def squares(self, means: np.ndarray) -> np.ndarray:
        """Sum of squared deviations of each group from its mean, `means` (G,)."""
        deviations = self.spread(means)
        np.subtract(self.values, deviations, out=deviations)
        np.square(deviations, out=deviations)
        return self.total(deviations)

    def is_new(self) -> np.ndarray:
        """Which scores (N,) differ from the next smaller one of their group, if there is one."""
        lines = self.values.reshape(self.of_samples)
        new = np.ones(lines.shape, bool)
        np.not_equal(lines[1:], lines[:-1], out=new[1:])
        new.ravel()[self.starts] = True
        return new.ravel()

    def without_tops(self) -> tuple[Groups, np.ndarray]:
        """The groups of two or more without their largest score, and which (G,) they are."""
        repeated = self.sizes >= 2
        sizes = self.sizes[repeated] - 1
        if self.stride > 1:
            return Groups.by_rank(self.values[: sizes.sum()], sizes), repeated
        kept = self.spread(repeated)
        kept[self.places(self.sizes - 1)] = False
        return Groups(self.values[kept], np.cumsum(sizes) - sizes, sizes), repeated


def by_rank_of_runs(values: np.ndarray, count: int) -> np.ndarray:
    """The values (N,) of `count` equally long runs, rank by rank."""
    return np.sort(values.reshape(count, -1), axis=1).T.ravel()


def sorted_runs(values: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """The values (N,) of each run sorted, runs of one of the `sizes` (G,) at a time, as the rows of a matrix."""
    starts, ordered = np.cumsum(sizes) - sizes, np.empty_like(values)
    for size in np.unique(sizes).tolist():
        places = starts[sizes == size][:, None] + np.arange(size)
        ordered[places] = np.sort(values[places], axis=1)
    return ordered


def _pairwise(lines: np.ndarray) -> np.ndarray:
    """The sum of rows (K, G) in the order in which `np.add.reduceat` adds the K numbers of a run (pairwise summation).

    So a mean hardly depends on how the scores of other prompts made them stand: with today's numpy not in one bit.
    """
    count = len(lines)
    if count > 128:
        half = count // 2 - count // 2 % 8
        return _pairwise(lines[:half]) + _pairwise(lines[half:])
    whole = count - count % 8
    if not whole:
        return lines.sum(axis=0)
    eighths = lines[:8] if whole == 8 else lines[:whole].reshape(-1, 8, lines.shape[1]).sum(axis=0)
    pairs = eighths[0::2] + eighths[1::2]
    total = (pairs[0] + pairs[1]) + (pairs[2] + pairs[3])
    for line in lines[whole:]:
        total += line
    return total


def dot(values: np.ndarray, weights: np.ndarray) -> float:
    """The sum of products of two arrays (n,).

    `@` asks the BLAS, whose threads wait for each other in loops beside those of this package: a third of the
    processor time of ten million scores.
    """
    return float(np.sum(values * weights))


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """All whole numbers of ranges, one range after the other."""
    ends = np.cumsum(lengths)
    return np.repeat(starts - (ends - lengths), lengths) + np.arange(ends[-1] if ends.size else 0)
