"""tau as a percentile of scores, its exact order-statistic interval and its bootstrap clustered by prompt."""

from __future__ import annotations

import math

import numpy as np

_WINDOW_SD = 8  # resamples whose tau falls further out are computed on the whole set
_TAIL_SD, _TAIL_COUNT = 12, 60  # the binomial mass beyond is below 1e-30


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
    first, cumulative = _binomial_cdf(n, p)
    tail = (1 - confidence) / 2
    lower = first + int(np.searchsorted(cumulative, tail, side="right"))
    upper = first + int(np.searchsorted(cumulative, 1 - tail, side="left")) + 1
    return lower, upper


def _binomial_cdf(n: int, p: float) -> tuple[int, np.ndarray]:
    """P(B <= k) for k from the returned first value on; the range holds all but 1e-30 of the mass."""
    mode = min(n, math.floor((n + 1) * p))
    reach = math.ceil(_TAIL_SD * math.sqrt(n * p * (1 - p))) + _TAIL_COUNT
    first, last = max(0, mode - reach), min(n, mode + reach)
    k = np.arange(first, last, dtype=np.float64)
    steps = np.log(n - k) - np.log(k + 1) + math.log(p) - math.log1p(-p)
    log_mass = np.concatenate([[0.0], np.cumsum(steps)])
    mass = np.exp(log_mass - log_mass.max())
    return first, np.cumsum(mass) / mass.sum()


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
        total = int(times @ sizes)
        cumulative = times @ below + np.cumsum(times[owner[start:stop]])
        at = _positions(cumulative, int(times @ below), total, p)
        if at is None:
            taus[draw] = _interpolate(ordered, *_all_positions(times, owner, total, p))
        else:
            taus[draw] = _interpolate(ordered[start:stop], *at)
    return taus


def _window(owner: np.ndarray, sizes: np.ndarray, p: float) -> tuple[int, int]:
    """Ranks within some standard deviations of tau; the rank's variance is the sum over prompts of (below - p size)^2."""
    centre = math.floor((owner.size - 1) * p)
    below = np.bincount(owner[: centre + 1], minlength=sizes.size)
    reach = math.ceil(_WINDOW_SD * math.sqrt(float(np.sum((below - p * sizes) ** 2)))) + 1
    return max(0, centre - reach), min(owner.size, centre + reach + 1)


def _positions(
    cumulative: np.ndarray, before: int, total: int, p: float
) -> tuple[int, int, float] | None:
    """Indices into the window of the two order statistics around tau, and how far tau is between them."""
    position = (total - 1) * p
    lower = math.floor(position)
    upper = min(lower + 1, total - 1)
    if lower < before or upper >= cumulative[-1]:
        return None
    first, second = cumulative.searchsorted([lower, upper], side="right")
    return int(first), int(second), position - lower


def _all_positions(
    times: np.ndarray, owner: np.ndarray, total: int, p: float
) -> tuple[int, int, float]:
    at = _positions(np.cumsum(times[owner]), 0, total, p)
    if at is None:
        raise RuntimeError("a quantile of a whole sample lies inside it")
    return at


def _interpolate(ordered: np.ndarray, lower: int, upper: int, fraction: float) -> float:
    low, high = ordered[lower], ordered[upper]
    return float(low + fraction * (high - low))
