"""What sketches of gradients say: the signal of every bin of levels, and from which level on training learns most."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

RESAMPLES = 1000
"""Bootstrap samples: a share of votes is known to 1.6 %."""


@dataclass(frozen=True)
class Moments:
    """Of the gradients of batches of `measured` units, by bin of levels."""

    own: np.ndarray
    """(bins,) |E g|^2, without bias, so that it may be below 0."""
    square: np.ndarray
    """(bins,) mean squared norms of a batch's gradient."""
    measured: int

    @property
    def variance(self) -> np.ndarray:
        """(bins,) of one unit's gradient, summed over its coordinates."""
        return self.measured * np.maximum(self.square - self.own, 0.0)

    @property
    def unit_square(self) -> np.ndarray:
        """(bins,) mean squared norms of one unit's gradient."""
        return self.own + self.variance

    def cos2(self, units: float) -> np.ndarray:
        """(bins,) |E g|^2 / E|g|^2 of the gradient of so many units."""
        return self.own / (np.maximum(self.own, 0.0) + self.variance / units)


def net_signal(cos2: np.ndarray, updates: float) -> np.ndarray:
    """(..., bins) signal less noise that a training accumulates at its levels, if it draws from each bin on.

    `cos2` (..., bins) is that of an update with all its units in the bin. A training of `updates` whose units are
    spread over n bins adds up to a gradient of each that has updates / n times as much signal to noise; signal less
    noise, as shares of that gradient's square, are summed over the n bins.
    """
    ratio = np.maximum(cos2, 0.0) / np.maximum(1 - cos2, 1e-12)
    bins = cos2.shape[-1]
    parts = [ratio[..., first:] * updates / (bins - first) for first in range(bins)]
    return np.stack([(1 - 2 / (1 + part)).sum(-1) for part in parts], -1)


@dataclass(frozen=True)
class Sketches:
    """Sketched gradients of the same batches in every bin."""

    values: np.ndarray
    """(batches, bins, width) float64."""
    measured: int
    """Units of a batch."""
    update: int
    """Units of an update in training, for which cos2 is stated."""

    @property
    def batches(self) -> int:
        """Number of batches."""
        return len(self.values)

    @cached_property
    def _products(self) -> np.ndarray:
        """(batches, batches, bins) inner products in every bin."""
        return np.einsum("kbw,lbw->klb", self.values, self.values, optimize=True)

    def moments(self, counts: np.ndarray) -> Moments:
        """With each batch counted so often; a batch is never paired with itself, which would add its noise.

        |mean g|^2 is |E g|^2 and the variance of the mean, which at low levels is many times as large.
        """
        squares = np.einsum("kkb->kb", self._products)
        everything = np.einsum("k,klb,l->b", counts, self._products, counts, optimize=True)
        pairs = counts.sum() ** 2 - np.square(counts).sum()
        own = (everything - np.square(counts) @ squares) / pairs
        return Moments(own, counts @ squares / counts.sum(), self.measured)

    @cached_property
    def whole(self) -> Moments:
        """Of all batches."""
        return self.moments(np.ones(self.batches))

    @property
    def cos2(self) -> np.ndarray:
        """(bins,) of each bin."""
        return self.whole.cos2(self.update)

    @property
    def cos2_error(self) -> np.ndarray:
        """(bins,) standard errors, by the jackknife over batches."""
        without_one = np.array([self.moments(1 - row).cos2(self.update) for row in np.eye(self.batches)])
        away = without_one - without_one.mean(0)
        return np.sqrt((self.batches - 1) / self.batches * np.square(away).sum(0))

    @property
    def resampled(self) -> np.ndarray:
        """(RESAMPLES, bins) cos2 of bootstrap samples over batches."""
        generator = np.random.default_rng(0)
        drawn = generator.integers(self.batches, size=(RESAMPLES, self.batches))
        counts = (np.bincount(row, minlength=self.batches).astype(float) for row in drawn)
        return np.array([self.moments(each).cos2(self.update) for each in counts])
