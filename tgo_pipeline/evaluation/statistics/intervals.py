"""Statistics of paired comparisons: effective sizes for win rates, bootstrap and sign flips over prompts for means.

Images of one prompt are not independent, so every interval counts prompts ("clusters"), not images. All in float64.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tgo_pipeline.errors import TgoError

Floats = NDArray[np.float64]
BLOCK = 2**22  # resample-by-cluster counts held at once (32 MB)
ROUNDING = 1e-12  # sums of the same numbers in another order count as equal


def effective_size(outcomes: NDArray, clusters: NDArray) -> float:
    """How many independent trials the 0/1 `outcomes` (N,) are worth when those of a cluster go together.

    N over the design effect, the ratio of the clustered to the independent variance of the mean (Kish 1965); exactly
    N for one outcome per cluster, never above it. The number of clusters if nothing varies, where the ratio is
    undefined.
    """
    _require(outcomes, clusters)
    sizes, inverse = _cluster_sizes(clusters)
    n, count = len(outcomes), len(sizes)
    rate = float(outcomes.mean())
    if count == 1 or rate in (0.0, 1.0):
        return float(count)
    residuals = np.bincount(inverse, weights=outcomes, minlength=count) - rate * sizes
    clustered = count / (count - 1) * float(residuals @ residuals) / n**2
    independent = rate * (1 - rate) / (n - 1)
    return n / float(np.clip(clustered / independent, 1.0, float(sizes @ sizes) / n))


def bootstrap_means(
    values: NDArray, clusters: NDArray, *, resamples: int, confidence: float, seed: int
) -> tuple[Floats, Floats]:
    """Percentile intervals (K,), (K,) of the column means of `values` (N, K), resampling whole clusters.

    NaN is a missing value of its column. All columns share their resamples, so they can be compared. A column with
    fewer than two clusters gets NaN: one prompt says nothing about another. Raises `TgoError` without a row.
    """
    means, clusters_with_value = resampled_means(values, clusters, resamples=resamples, seed=seed)
    intervals = np.full((2, values.shape[1]), np.nan)
    for column in np.flatnonzero(clusters_with_value > 1):
        intervals[:, column] = percentile_interval(means[:, column], confidence)
    return intervals[0], intervals[1]


def spread(values: NDArray) -> float:
    """The standard deviation of a sample (n - 1); exactly 0 where all values are equal, and for less than two.

    The mean of equal values is often off by its last bit, and a deviation of 1e-17 would make any effect huge.
    """
    if len(values) < 2 or values.min() == values.max():
        return 0.0
    return float(values.std(ddof=1))


def may_decide(clusters: int, confidence: float) -> bool:
    """Whether so many prompts can show anything: all differences with one sign must be rarer than 1 - confidence.

    That happens by chance with probability 2^(1 - clusters), when a bootstrap interval leaves zero out however far it
    reaches: of 3 prompts it covers 75 % at most. At 0.95 it takes 6.
    """
    return 2.0 ** (1 - clusters) <= 1 - confidence + ROUNDING


def resampled_means(
    values: NDArray, clusters: NDArray, *, resamples: int, seed: int
) -> tuple[Floats, NDArray[np.intp]]:
    """The column means of `values` (N, K) in each resample, (resamples, K), and the clusters that each column has.

    Whole clusters are drawn with replacement, the same for all columns; NaN is a missing value of its column.
    """
    _require(values, clusters)
    present = ~np.isnan(values)
    sizes, inverse = _cluster_sizes(clusters)
    sums, counts = (
        _cluster_sums(part, inverse, len(sizes)) for part in (np.where(present, values, 0.0), present)
    )
    weights = _multiplicities(len(sizes), resamples, np.random.default_rng(seed))
    means = np.concatenate([_ratio(block @ sums, block @ counts) for block in weights])
    return means, (counts > 0).sum(axis=0)


def percentile_interval(resampled: NDArray, confidence: float) -> tuple[float, float]:
    """The middle share `confidence` of resampled values (B,), NaN left out (Efron's percentile interval)."""
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(resampled, (tail, 1 - tail))
    return float(low), float(high)


def sign_flip_test(differences: NDArray, clusters: NDArray, *, flips: int, seed: int) -> Floats:
    """Two-sided p-values (K,) of paired `differences` (N, K): could each prompt as well have had the other sign?

    Under the hypothesis that the two models are alike, the sum of a prompt's differences is as likely to be positive
    as negative (Fisher's randomisation test, prompts as units). All 2^n sign patterns are counted where there are at
    most `flips` of them, else `flips` random ones, of which p = (1 + as extreme) / (1 + flips) (Phipson and Smyth
    2010): it is never below 1 / (1 + flips). All columns share their patterns. NaN without a difference at all.
    """
    _require(differences, clusters)
    present = ~np.isnan(differences)
    sizes, inverse = _cluster_sizes(clusters)
    sums = _cluster_sums(np.where(present, differences, 0.0), inverse, len(sizes))
    observed = np.abs(sums.sum(axis=0)) * (1 - ROUNDING)
    exact = 2 ** len(sizes) <= flips
    patterns = _all_signs(len(sizes)) if exact else _random_signs(len(sizes), flips, seed)
    extreme = sum((np.abs(block @ sums) >= observed).sum(axis=0) for block in patterns)
    values = extreme / 2 ** len(sizes) if exact else (1 + extreme) / (1 + flips)
    return np.where(present.any(axis=0), values, np.nan)


def _all_signs(count: int) -> Iterator[Floats]:
    """Every pattern of `count` signs, (2^count, count), in one block."""
    bits = np.arange(2**count)[:, None] >> np.arange(count) & 1
    yield 1.0 - 2.0 * bits


def _random_signs(count: int, flips: int, seed: int) -> Iterator[Floats]:
    """Blocks (b, count) of random signs, `flips` rows in all."""
    generator = np.random.default_rng(seed)
    step = max(1, BLOCK // count)
    for start in range(0, flips, step):
        rows = min(step, flips - start)
        yield 1.0 - 2.0 * generator.integers(2, size=(rows, count), dtype=np.int8).astype(np.float64)


def compare_pairs(base: NDArray, tuned: NDArray) -> tuple[NDArray, NDArray, NDArray]:
    """Three boolean arrays of the inputs' shape: tuned strictly above base, equal, strictly below; NaN is none."""
    return tuned > base, tuned == base, tuned < base


def _require(values: NDArray, clusters: NDArray) -> None:
    if len(values) != len(clusters):
        raise TgoError(
            f"{len(values)} values came with {len(clusters)} prompts: they must be of equal length."
        )
    if not len(values):
        raise TgoError("there is nothing to compare: no sample was scored on both sides.")


def _cluster_sizes(clusters: NDArray) -> tuple[Floats, NDArray[np.intp]]:
    _, inverse, sizes = np.unique(clusters, return_inverse=True, return_counts=True)
    return sizes.astype(np.float64), inverse


def _cluster_sums(values: NDArray, inverse: NDArray[np.intp], count: int) -> Floats:
    columns = [np.bincount(inverse, weights=column, minlength=count) for column in values.T]
    return np.stack(columns, axis=1).astype(np.float64)


def _multiplicities(count: int, resamples: int, generator: np.random.Generator) -> Iterator[Floats]:
    """Blocks (b, count): how often each cluster is drawn when `count` clusters are drawn with replacement."""
    step = max(1, BLOCK // count)
    for start in range(0, resamples, step):
        rows = min(step, resamples - start)
        drawn = generator.integers(count, size=(rows, count)) + count * np.arange(rows)[:, None]
        yield np.bincount(drawn.ravel(), minlength=rows * count).reshape(rows, count).astype(np.float64)


def _ratio(sums: Floats, counts: Floats) -> Floats:
    with np.errstate(invalid="ignore"):
        return sums / counts
