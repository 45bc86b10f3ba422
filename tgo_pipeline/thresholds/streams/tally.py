"""Prompts counted by how many samples they have and how many of these have a property: few numbers tell of millions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class PromptTally(NamedTuple):
    """What prompts have in common: `times` (M,) of them have `sizes` samples, `counts` of which have the property."""

    counts: np.ndarray
    sizes: np.ndarray
    times: np.ndarray

    @classmethod
    def of(cls, counts: np.ndarray, sizes: np.ndarray) -> PromptTally:
        """Of prompts (G,). Where their sizes are many, each is left alone."""
        return cls(counts, sizes, np.ones(sizes.size, np.int64))._merged()

    @classmethod
    def joined(cls, parts: Sequence[PromptTally]) -> PromptTally:
        """Of all prompts of several parts."""
        return cls(*map(np.concatenate, zip(*parts, strict=True)))._merged()

    def _merged(self) -> PromptTally:
        base = int(self.sizes.max(initial=0)) + 1
        if base * base > self.sizes.size:
            return self
        times = np.bincount(self.sizes * base + self.counts, self.times).astype(np.int64)
        found = np.flatnonzero(times)
        return PromptTally(found % base, found // base, times[found])
