"""tau as a percentile of scores, its exact order-statistic interval and its bootstrap clustered by prompt."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right
from dataclasses import dataclass

import numpy as np

from tgo_pipeline.thresholds.adequacy.intervals import standard_error, t_quantile
from tgo_pipeline.thresholds.streams.column import ScoreColumn
from tgo_pipeline.thresholds.streams.groups import Groups
from tgo_pipeline.thresholds.streams.sorted_parts import SortedParts

MOST_RESAMPLED = 20_000
"""Prompts up to which they are drawn again: beyond, the linearised interval differs from the resamples' by less than
a thousand of them differ from as many others, and costs nothing (a thousand draws of 2.5 million prompts: minutes)."""
_WINDOW_SD = 8  # resamples whose tau falls further out look at a wider part


def percentile(values: np.ndarray, p: float) -> float:
    """The p-quantile (0 < p < 1) by linear interpolation between order statistics, numpy's method `linear`.

    With n sorted values it sits at position (n - 1) p, so that p = 0.5 is the ordinary median.
    """
    return float(np.quantile(values, p, method="linear"))


def order_statistic_interval(
    ordered: SortedParts, p: float, confidence: float
) -> tuple[float | None, float | None]:
    """Distribution-free interval [x_(l), x_(u)] of the p-quantile from independent values.

    l and u are the tightest ranks with P(B < l) <= a/2 and P(B >= u) <= a/2 for B ~ Binomial(n, p), a = 1 - confidence:
    coverage is at least `confidence` for every distribution, with atoms too (David & Nagaraja, Order Statistics, 7.1).
    An end is None where n is too small for one. Samples of one prompt are not independent: see `prompt_interval`.
    """
    if not ordered.size:
        return None, None
    lower, upper = _ranks(ordered.size, p, confidence)
    low, high = ordered.at([max(lower, 1) - 1, min(upper, ordered.size) - 1]).tolist()
    return low if lower >= 1 else None, high if upper <= ordered.size else None


def _ranks(n: int, p: float, confidence: float) -> tuple[int, int]:
    from scipy.special import betainc

    def at_most(k: int) -> float:
        """P(B <= k); scipy's own binomial functions take no n above 2^31."""
        return float(betainc(n - k, k + 1, 1 - p)) if k < n else 1.0

    tail, counts = (1 - confidence) / 2, range(n + 1)
    lower = bisect_right(counts, tail, key=at_most)
    return lower, bisect_left(counts, 1 - tail, key=at_most) + 1


def prompt_interval(
    column: ScoreColumn, p: float, *, confidence: float, resamples: int, seed: int
) -> tuple[float | None, float | None]:
    """Interval of tau over prompts; None twice with fewer than 2 prompts.

    Up to `MOST_RESAMPLED` prompts it is the percentile interval of tau when whole prompts are drawn with replacement.
    On discrete scores that may collapse to a point, because tau sits on an atom in every resample: read it together
    with the ties. With more prompts it is `linearised_interval`.
    """
    if column.sizes.size < 2:
        return None, None
    if column.sizes.size > MOST_RESAMPLED:
        return linearised_interval(column, p, confidence)
    taus = bootstrap_taus(column, p, resamples=resamples, seed=seed)
    low, high = np.quantile(taus, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def linearised_interval(column: ScoreColumn, p: float, confidence: float) -> tuple[float, float]:
    """Woodruff's interval of the p-quantile: quantiles at p +- t se, se being that of the share up to tau.

    The standard error is linearised over prompts (Woodruff 1952; Francisco & Fuller 1991).
    """
    tau = column.ordered.quantiles([p])[0]
    (upto,) = column.tallies([lambda scores: scores <= tau])
    reach = t_quantile((1 + confidence) / 2, column.sizes.size - 1) * standard_error(*upto)
    low, high = column.ordered.quantiles([max(0.0, p - reach), min(1.0, p + reach)])
    return low, high


def bootstrap_taus(column: ScoreColumn, p: float, *, resamples: int, seed: int) -> np.ndarray:
    """tau of each of `resamples` draws of prompts with replacement, float64 (resamples,).

    A prompt that is drawn k times counts its samples k times; tau is `percentile` of that multiset, found from
    cumulative counts over the sorted values. Only those around tau are held and accumulated, and more of them for the
    rare draw that lands outside.
    """
    sizes = column.sizes
    window = _Window.about(column, p)
    rng = np.random.default_rng(seed)
    taus = np.empty(resamples)
    for draw in range(resamples):
        times = np.bincount(rng.integers(0, sizes.size, sizes.size), minlength=sizes.size)
        position = (int(times @ sizes) - 1) * p
        taus[draw], wider = window.tau(times, position), 1
        while math.isnan(taus[draw]):
            wider *= 8
            taus[draw] = _Window.about(column, p, wider).tau(times, position)
    return taus


@dataclass(frozen=True)
class _Window:
    """The samples near tau, in order, with their prompts, and how many of each prompt are below."""

    ordered: np.ndarray
    owner: np.ndarray
    below: np.ndarray

    @classmethod
    def about(cls, column: ScoreColumn, p: float, wider: int = 1) -> _Window:
        """Within 8 standard deviations of tau's rank, or so many times as far; the variance is that of its prompts."""
        centre = math.floor((column.n - 1) * p)
        middle = column.ordered.at([centre])[0]
        upto = column.per_prompt(lambda groups: groups.count(groups.values <= middle))
        spread = math.sqrt(float(np.sum((upto - p * column.sizes) ** 2)))
        reach = wider * (math.ceil(_WINDOW_SD * spread) + 1)  # the spread may be 0
        low, high = column.ordered.at([max(0, centre - reach), min(column.n - 1, centre + reach)])
        below = column.per_prompt(lambda groups: groups.count(groups.values < low))

        def inside(groups: Groups) -> tuple[np.ndarray, np.ndarray]:
            near = (groups.values >= low) & (groups.values <= high)
            return groups.values[near], groups.spread(np.arange(groups.sizes.size))[near]

        found, number = list(column.each(inside)), np.arange(column.sizes.size)
        values = np.concatenate([part for part, _ in found])
        owner = np.concatenate(
            [number[part.prompts][own] for part, (_, own) in zip(column.parts, found, strict=True)]
        )
        order = np.argsort(values, kind="stable")
        return cls(values[order], owner[order], below)

    def tau(self, times: np.ndarray, position: float) -> float:
        """The value at `position` where every prompt counts so many `times` (G,); NaN if it is outside."""
        return _weighted_quantile(self.ordered, times[self.owner], int(times @ self.below), position)


def _weighted_quantile(ordered: np.ndarray, counts: np.ndarray, before: int, position: float) -> float:
    """The value at `position` among sorted values repeated `counts` times, `before` more below; NaN outside."""
    cumulative = before + np.cumsum(counts)
    lower = math.floor(position)
    upper = lower if position == lower else lower + 1
    if lower < before or upper >= cumulative[-1]:
        return math.nan
    low, high = ordered[cumulative.searchsorted([lower, upper], side="right")]
    return float(low + (position - lower) * (high - low))
