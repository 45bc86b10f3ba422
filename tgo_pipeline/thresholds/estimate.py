"""tau as a percentile of scores, its exact order-statistic interval and its bootstrap clustered by prompt."""

from __future__ import annotations

import math
from bisect import bisect_left, bisect_right

import numpy as np

_WINDOW_SD = 8  # resamples whose tau falls further out are computed on the whole set


def percentile(values: np.ndarray, p: float) -> float:
    """The p-quantile (0 < p < 1) by linear interpolation between order statistics, numpy's method `linear`.

    With n sorted values it sits at position (n - 1) p, so that p = 0.5 is the ordinary median.
    """
    return float(np.quantile(values, p, method="linear"))


def order_statistic_interval(
    ordered: np.ndarray, p: float, confidence: float
) -> tuple[float | None, float | None]:
    """Distribution-free interval [x_(l), x_(u)] of the p-quantile from sorted, independent values (n,).

    l and u are the tightest ranks with P(B < l) <= a/2 and P(B >= u) <= a/2 for B ~ Binomial(n, p), a = 1 - confidence:
    coverage is at least `confidence` for every distribution, with atoms too (David & Nagaraja, Order Statistics, 7.1).
    An end is None where n is too small for one. Samples of one prompt are not independent: see `bootstrap_taus`.
    """
    lower, upper = _ranks(ordered.size, p, confidence)
    low = float(ordered[lower - 1]) if lower >= 1 else None
    high = float(ordered[upper - 1]) if upper <= ordered.size else None
    return low, high


def _ranks(n: int, p: float, confidence: float) -> tuple[int, int]:
    from scipy.special import betainc

    def at_most(k: int) -> float:
        """P(B <= k); scipy's own binomial functions take no n above 2^31."""
        return float(betainc(n - k, k + 1, 1 - p)) if k < n else 1.0

    tail, counts = (1 - confidence) / 2, range(n + 1)
    lower = bisect_right(counts, tail, key=at_most)
    return lower, bisect_left(counts, 1 - tail, key=at_most) + 1


def bootstrap_interval(
    values: np.ndarray, prompts: np.ndarray, p: float, *, confidence: float, resamples: int, seed: int
) -> tuple[float | None, float | None]:
    """Percentile interval of tau when whole prompts are drawn with replacement; None twice with fewer than 2 prompts.

    On discrete scores it may collapse to a point, because tau sits on an atom in every resample: read it together
    with the number of ties.
    """
    if prompts.min() == prompts.max():
        return None, None
    taus = bootstrap_taus(values, prompts, p, resamples=resamples, seed=seed)
    low, high = np.quantile(taus, [(1 - confidence) / 2, (1 + confidence) / 2])
    return float(low), float(high)


def bootstrap_taus(
    values: np.ndarray, prompts: np.ndarray, p: float, *, resamples: int, seed: int
) -> np.ndarray:
    """tau of each of `resamples` draws of prompts with replacement, float64 (resamples,).

    `values` (n,) are finite, `prompts` (n,) whole numbers from 0. A prompt that is drawn k times counts its samples
    k times; tau is `percentile` of that multiset, found from cumulative counts over the sorted values. Only the ranks
    around tau are accumulated, and all of them in the rare draw that lands outside.
    """
    order = np.argsort(values, kind="stable")
    ordered, owner = values[order], prompts[order]
    sizes = np.bincount(owner)
    start, stop = _window(owner, sizes, p)
    below = np.bincount(owner[:start], minlength=sizes.size)
    rng = np.random.default_rng(seed)
    taus = np.empty(resamples)
    for draw in range(resamples):
        times = np.bincount(rng.integers(0, sizes.size, sizes.size), minlength=sizes.size)
        position = (int(times @ sizes) - 1) * p
        tau = _weighted_quantile(ordered[start:stop], times[owner[start:stop]], int(times @ below), position)
        taus[draw] = _weighted_quantile(ordered, times[owner], 0, position) if math.isnan(tau) else tau
    return taus


def _window(owner: np.ndarray, sizes: np.ndarray, p: float) -> tuple[int, int]:
    """Ranks within 8 standard deviations of tau's; the variance is the sum over prompts of (below - p size)^2."""
    centre = math.floor((owner.size - 1) * p)
    below = np.bincount(owner[: centre + 1], minlength=sizes.size)
    reach = math.ceil(_WINDOW_SD * math.sqrt(float(np.sum((below - p * sizes) ** 2)))) + 1
    return max(0, centre - reach), min(owner.size, centre + reach + 1)


def _weighted_quantile(ordered: np.ndarray, counts: np.ndarray, before: int, position: float) -> float:
    """The value at `position` among sorted values repeated `counts` times, `before` more below; NaN outside."""
    cumulative = before + np.cumsum(counts)
    lower = math.floor(position)
    upper = lower if position == lower else lower + 1
    if lower < before or upper >= cumulative[-1]:
        return math.nan
    low, high = ordered[cumulative.searchsorted([lower, upper], side="right")]
    return float(low + (position - lower) * (high - low))
