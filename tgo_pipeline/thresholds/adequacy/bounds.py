"""Bounds on what one threshold in place of each prompt's own can do, to labels and to the weighted loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from tgo_pipeline.thresholds.streams.sorted_parts import SortedParts

MARGINS = np.geomspace(0.02, 5, 41)
"""Margins that are tried, in standard deviations of the scores: hardly a score lies within the first, and
hardly one outside of the last; 15 % apart."""


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


def weighted_median(values: np.ndarray, weights: np.ndarray) -> float:
    """The least minimiser of t -> sum w |t - v| over `values` (n,) with `weights` (n,) of positive sum."""
    return weighted_quantile(values, weights, weights.sum() / 2)


def weighted_quantile(values: np.ndarray, weights: np.ndarray, amount: float) -> float:
    """The least of `values` (n,) that, with all below it, has `weights` (n,) of `amount` or more."""
    order = np.argsort(values)
    place = int(np.cumsum(weights[order]).searchsorted(amount))
    return float(values[order[min(place, values.size - 1)]])  # rounding may leave less than the whole


def oracle_percentile(sigma: float, beta: float) -> float:
    """Phi(sigma / 2 beta): the percentile of normal scores at beta log E exp(s / beta) = mean + sigma^2 / 2 beta."""
    return NormalDist().cdf(sigma / (2 * beta))


def sampling_flips(n: int, percentile: float) -> float:
    """E|F(tau_n) - F(tau)| of the percentile of n independent scores: sqrt(2 p (1 - p) / (pi n)), for any F."""
    return math.sqrt(2 * percentile * (1 - percentile) / (math.pi * n))
