"""What sketches of gradients say: the signal of every bin of levels, and the range that training should draw from."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Self

import numpy as np

if TYPE_CHECKING:
    from tgo_pipeline.params import FineTuneParams

RESAMPLES = 1000
"""Bootstrap samples: a share of votes is known to 1.6 %."""


@dataclass(frozen=True)
class Moments:
    """Of the gradients of batches of `measured` units by bin of levels; training draws equally often from each."""

    inner: np.ndarray
    """(bins, bins) inner products of the mean gradients, without bias."""
    square: np.ndarray
    """(bins,) mean squared norms of a batch's gradient."""
    measured: int

    @property
    def unit_square(self) -> np.ndarray:
        """(bins,) mean squared norms of one unit's gradient."""
        own = np.diag(self.inner)
        return own + self.measured * np.maximum(self.square - own, 0.0)

    def mean_square(self, bins: slice, units: float) -> float:
        """E|g|^2 of the gradient of so many units whose levels are drawn from these bins.

        A unit's variance is that within the bins and that of the bins' means.
        """
        own, mean = np.diag(self.inner)[bins], self.inner[bins, bins].mean()
        within = self.measured * (self.square[bins] - own)
        return float(max(mean, 0.0) + ((within + own).mean() - mean) / units)

    def cos2(self, bins: slice, units: float) -> float:
        """|E g|^2 / E|g|^2; an estimate without bias of the numerator may be below 0."""
        return float(self.inner[bins, bins].mean()) / self.mean_square(bins, units)

    def aims(self, units: float) -> np.ndarray:
        """(bins,) <E g, G> / sqrt(E|g|^2) of the range from each bin on, where G is the mean gradient of all levels."""
        ranges = [slice(first, None) for first in range(len(self.square))]
        towards = np.array([self.inner[each].mean() for each in ranges])
        return towards / np.sqrt([self.mean_square(each, units) for each in ranges])


@dataclass(frozen=True)
class Sketches:
    """Sketched gradients of the same batches in every bin."""

    values: np.ndarray
    """(batches, bins, width) float64."""
    measured: int
    """Units of a batch."""
    update: int
    """Units of an update in training, for which cos2 is stated."""
    averaged: float = 1.0
    """Updates whose gradients the optimiser averages."""

    @classmethod
    def of(cls, values: np.ndarray, measured: int, params: FineTuneParams) -> Self:
        """Those of a training. AdamW's moving average has the variance of a mean of (1 + beta1) / (1 - beta1)."""
        beta = params.adam_beta1 if params.optimizer == "adamw" else 0.0
        return cls(values, measured, params.batch_size, (1 + beta) / (1 - beta))

    @property
    def batches(self) -> int:
        """Number of batches."""
        return len(self.values)

    @property
    def bins(self) -> int:
        """Number of bins of noise levels."""
        return self.values.shape[1]

    @cached_property
    def _products(self) -> np.ndarray:
        """(batches, bins, batches, bins) inner products."""
        flat = self.values.reshape(self.batches * self.bins, -1)
        return (flat @ flat.T).reshape(self.batches, self.bins, self.batches, self.bins)

    @cached_property
    def _own(self) -> np.ndarray:
        """(batches, bins, bins) of a batch with itself."""
        return np.einsum("kbkc->kbc", self._products).copy()

    def moments(self, counts: np.ndarray) -> Moments:
        """With each batch counted so often; a batch is never paired with itself, which would add its noise.

        |mean g|^2 is |E g|^2 and the variance of the mean, which at low levels is many times as large.
        """
        own = self._own
        everything = np.tensordot(np.tensordot(counts, self._products, (0, 0)), counts, (1, 0))
        pairs = counts.sum() ** 2 - np.square(counts).sum()
        inner = (everything - np.tensordot(np.square(counts), own, (0, 0))) / pairs
        square = counts @ np.einsum("kbb->kb", own) / counts.sum()
        return Moments((inner + inner.T) / 2, square, self.measured)

    @cached_property
    def whole(self) -> Moments:
        """Of all batches."""
        return self.moments(np.ones(self.batches))

    @cached_property
    def _without_one(self) -> list[Moments]:
        return [self.moments(1 - row) for row in np.eye(self.batches)]

    def _cos2(self, moments: Moments) -> np.ndarray:
        alone = [moments.cos2(slice(number, number + 1), self.update) for number in range(self.bins)]
        ranges = [moments.cos2(slice(number, None), self.update) for number in range(self.bins)]
        return np.array([alone, ranges])

    @property
    def cos2(self) -> np.ndarray:
        """(2, bins): of each bin, and of the range from it on."""
        return self._cos2(self.whole)

    @property
    def cos2_error(self) -> np.ndarray:
        """(2, bins) standard errors, by the jackknife over batches."""
        return self._error(np.array([self._cos2(each) for each in self._without_one]))

    def _error(self, without_one: np.ndarray) -> np.ndarray:
        away = without_one - without_one.mean(0)
        return np.sqrt((self.batches - 1) / self.batches * np.square(away).sum(0))

    def aims(self, moments: Moments) -> np.ndarray:
        """(bins,) how well what the optimiser follows points along the mean gradient of all levels, if it draws from
        each bin on: an expected cosine, but for one factor."""
        return moments.aims(self.update * self.averaged)

    @property
    def best(self) -> int:
        """The bin from which on training should draw: where the aim is greatest."""
        return int(np.argmax(self.aims(self.whole)))

    @property
    def clarity(self) -> float:
        """How many standard errors the best range's aim is above 0."""
        error = self._error(np.array([self.aims(each) for each in self._without_one]))
        return float(self.aims(self.whole)[self.best] / error[self.best])

    @property
    def votes(self) -> np.ndarray:
        """(bins,) in which share of bootstrap samples over batches each bin is `best`."""
        generator = np.random.default_rng(0)
        votes = np.zeros(self.bins)
        for _ in range(RESAMPLES):
            drawn = generator.integers(self.batches, size=self.batches)
            counts = np.bincount(drawn, minlength=self.batches).astype(float)
            votes[np.argmax(self.aims(self.moments(counts)))] += 1
        return votes / RESAMPLES
