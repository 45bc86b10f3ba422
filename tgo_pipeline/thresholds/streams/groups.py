"""Scores of some prompts in memory, prompt by prompt."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Groups:
    """Scores in order of their prompt, and in order of score within it."""

    values: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray

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

    def means(self) -> np.ndarray:
        """Mean of each group; exact where all of a group's scores are equal."""
        least = self.values[self.starts]
        return least + np.add.reduceat(self.values - self.spread(least), self.starts) / self.sizes

    def medians(self) -> np.ndarray:
        """Median of each group."""
        low = self.values[self.starts + (self.sizes - 1) // 2]
        return low + (self.values[self.starts + self.sizes // 2] - low) / 2

    def tops(self) -> np.ndarray:
        """Largest score of each group."""
        return self.values[self.starts + self.sizes - 1]

    def squares(self) -> np.ndarray:
        """Sum of squared deviations from its mean of each group."""
        deviations = self.values - self.spread(self.means())
        np.square(deviations, out=deviations)
        return np.add.reduceat(deviations, self.starts)

    def count(self, flags: np.ndarray) -> np.ndarray:
        """How many samples of each group (G,) are flagged in `flags` (N,)."""
        return np.add.reduceat(flags, self.starts, dtype=np.int64)

    def spread(self, per_group: np.ndarray) -> np.ndarray:
        """One value per group, repeated for each of its samples."""
        return np.repeat(per_group, self.sizes)
