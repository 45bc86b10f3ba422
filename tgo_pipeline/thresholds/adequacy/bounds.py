"""Bounds on what one threshold in place of each prompt's own can do, to labels and to the weighted loss."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

import numpy as np

from tgo_pipeline.thresholds.streams.groups import dot
from tgo_pipeline.thresholds.streams.sorted_parts import SortedParts

MARGINS = np.geomspace(0.02, 5, 41)
"""Margins that are tried, in standard deviations of the scores: hardly a score lies within the first, and
hardly one outside of the last; 15 % apart."""

FIRST_REACH = 0.02
"""Share of some values on either side of their median that the median of all is looked for in."""


@dataclass(frozen=True)
class MarginBound:
    """P(|s - tau| <= h) + E(b - tau)^2 / h^2 over margins h (M,), and where it is least."""

    margins: np.ndarray
    bounds: np.ndarray

    @property
    def least(self) -> tuple[float, float]:
        """The margin and the bound there."""
        best = int(np.argmin(self.bounds))
        return float(self.margins[best]), float(self.bounds[best])


def margin_bound(near: np.ndarray, margins: np.ndarray, squared_error: float) -> MarginBound:
    """The bound on P(1[s >= tau] != 1[s >= b]) from the shares `near` (M,) of scores within each margin of tau.

    A label flips only if s lies between tau and b: then |s - tau| <= h, or |b - tau| > h, which Chebyshev bounds.
    """
    return MarginBound(margins, near + squared_error / margins**2)


def shares_near(ordered: SortedParts, tau: float, margins: np.ndarray) -> np.ndarray:
    """P(|s - tau| <= h) of scores for each margin h (M,)."""
    return (ordered.counts(tau + margins, "right") - ordered.counts(tau - margins, "left")) / ordered.size


class NearMedian(NamedTuple):
    """Values (n,) among which a weighted median is looked for, and what the others weigh."""

    values: np.ndarray
    weights: np.ndarray
    below: float
    """Weight of all values below these."""
    total: float
    """Weight of all values."""

    @classmethod
    def of(cls, values: np.ndarray, weights: np.ndarray, ends: tuple[float, float]) -> NearMedian:
        """Those of `values` (N,) with `weights` (N,) that lie between two ends."""
        inside = (values >= ends[0]) & (values <= ends[1])
        below = dot(values < ends[0], weights)
        return cls(values[inside], weights[inside], below, float(weights.sum()))

    @classmethod
    def joined(cls, parts: Sequence[NearMedian]) -> NearMedian:
        """Of several parts between the same ends."""
        values, weights, below, total = zip(*parts, strict=True)
        return cls(np.concatenate(values), np.concatenate(weights), sum(below), sum(total))

    def found(self) -> float | None:
        """The least value that, with all below it, has half of the weight; None if it lies outside."""
        rest = self.total / 2 - self.below
        if not 0 < rest <= self.weights.sum():
            return None
        order = np.argsort(self.values)
        place = int(np.cumsum(self.weights[order]).searchsorted(rest))
        return float(self.values[order[min(place, order.size - 1)]])  # rounding may leave less than the whole


def ends_about(some: np.ndarray, reach: float) -> tuple[float, float]:
    """Between which values a median is looked for: a share `reach` of `some` values (n,) on either side of theirs."""
    if reach >= 0.5:
        return -math.inf, math.inf
    low, high = np.quantile(some, [0.5 - reach, 0.5 + reach])
    return float(low), float(high)


def weighted_median(
    look: Callable[[tuple[float, float]], NearMedian], some: np.ndarray, near: NearMedian | None = None
) -> float:
    """The least minimiser of t -> sum w |t - v| over values v with weights w of positive sum.

    `look` takes what is between two ends of all values; `some` of them (n,) say which ends, wider ones if they are
    wrong. `near` is what lies between the first ones, if that is known.
    """
    reach = FIRST_REACH
    near = near or look(ends_about(some, reach))
    while (median := near.found()) is None:
        reach *= 8
        near = look(ends_about(some, reach))
    return median


def oracle_percentile(sigma: float, beta: float) -> float:
    """Phi(sigma / 2 beta): the percentile of normal scores at beta log E exp(s / beta) = mean + sigma^2 / 2 beta."""
    return NormalDist().cdf(sigma / (2 * beta))


def sampling_flips(n: int, percentile: float) -> float:
    """E|F(tau_n) - F(tau)| of the percentile of n independent scores: sqrt(2 p (1 - p) / (pi n)), for any F."""
    return math.sqrt(2 * percentile * (1 - percentile) / (math.pi * n))
