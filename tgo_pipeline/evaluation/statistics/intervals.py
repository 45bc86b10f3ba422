"""Statistics of paired comparisons: effective sizes for win rates, bootstrap and sign flips over prompts for means.

Images of one prompt are not independent, so every interval counts prompts ("clusters"), not images. Samples of several
trainings are crossed: each training has the same prompts, and both are drawn again. All in float64.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from tgo_pipeline.errors import TgoError
from tgo_pipeline.seeds import derive_seed

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
    values: NDArray,
    clusters: NDArray,
    *,
    resamples: int,
    confidence: float,
    seed: int,
    trainings: NDArray | None = None,
) -> tuple[Floats, Floats]:
    """Percentile intervals (K,), (K,) of the column means of `values` (N, K), resampling clusters and `trainings`.

    NaN is a missing value of its column. All columns share their resamples, so they can be compared. A column with
    fewer than two clusters gets NaN: one prompt says nothing about another. Raises `TgoError` without a row.
    """
    means, clusters_with_value = resampled_means(
        values, clusters, resamples=resamples, seed=seed, trainings=trainings
    )
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
    values: NDArray, clusters: NDArray, *, resamples: int, seed: int, trainings: NDArray | None = None
) -> tuple[Floats, NDArray[np.intp]]:
    """The column means of `values` (N, K) in each resample, (resamples, K), and the clusters that each column has.

    Whole clusters are drawn with replacement, the same for all columns; NaN is a missing value of its column.
    `trainings` (N,) names the training of each value, or (N, F) one of each of F groups: those of a group are drawn
    with replacement too, independently of the clusters, and a value weighs the product of how often its trainings and
    its cluster are drawn: the pigeonhole bootstrap (Owen 2007, Annals of Applied Statistics 1(2), 386-411; with more
    factors Owen and Eckles 2012, there 6(3)). No bootstrap of crossed effects is exact (McCullagh 2000, Bernoulli 6,
    285-301): of S trainings this one finds (S - 1) / S of the variance between them, and up to three times the variance
    that is of single images. One training gives the bootstrap over clusters, bit by bit.
    """
    _require(values, clusters)
    if trainings is None:
        trainings = np.zeros(len(values), dtype=np.intp)
    _require(values, trainings, "trainings")
    present = ~np.isnan(values)
    sizes, inverse = _cluster_sizes(clusters)
    members, cells = np.unique(trainings.reshape(len(values), -1), axis=0, return_inverse=True)
    sums, counts = (
        _cluster_sums(part, cells.ravel() * len(sizes) + inverse, len(members) * len(sizes)).reshape(
            len(members), len(sizes), -1
        )
        for part in (np.where(present, values, 0.0), present)
    )
    drawn = _drawn_trainings(members, resamples, seed)
    means, start = [], 0
    for weights in _multiplicities(len(sizes), resamples, np.random.default_rng(seed)):
        block = drawn[start : start + len(weights)]
        means.append(_ratio(_crossed(block, weights, sums), _crossed(block, weights, counts)))
        start += len(weights)
    return np.concatenate(means), (counts.sum(axis=0) > 0).sum(axis=0)


def _drawn_trainings(members: NDArray, resamples: int, seed: int) -> Floats:
    """How often each row of `members` (C, F) is drawn in each resample, (resamples, C): a product over its columns."""
    drawn = np.ones((resamples, len(members)))
    for place, column in enumerate(members.T):
        names, codes = np.unique(column, return_inverse=True)
        generator = np.random.default_rng(derive_seed(seed, f"trainings {place}", "bootstrap"))
        drawn *= np.concatenate(list(_multiplicities(len(names), resamples, generator)))[:, codes]
    return drawn


def _crossed(drawn: Floats, weights: Floats, sums: Floats) -> Floats:
    """Sums (b, K) over trainings (C) and clusters (P) of `sums` (C, P, K), each as often as both are drawn.

    One product of matrices for each training: an array (b, C, P) would not fit.
    """
    total = drawn[:, :1] * (weights @ sums[0])
    for place in range(1, len(sums)):
        total += drawn[:, place : place + 1] * (weights @ sums[place])
    return total


def percentile_interval(resampled: NDArray, confidence: float) -> tuple[float, float]:
    """The middle share `confidence` of resampled values (B,), NaN left out (Efron's percentile interval)."""
    tail = (1 - confidence) / 2
    low, high = np.nanquantile(resampled, (tail, 1 - tail))
    return float(low), float(high)


def crossed_t_interval(sides: Sequence[Floats], confidence: float) -> tuple[Floats, Floats]:
    """Student's intervals (K,), (K,) of the mean of `sides[0]`, less that of `sides[1]` if there is one.

    A side (S, P, K) has the values of S trainings on P prompts, all sides the same prompts; a single training is taken
    as it is. The variance is that of crossed random effects, from the mean squares of trainings, prompts and rest, and
    never below any of its parts; the degrees of freedom are Satterthwaite's (1946, Biometrics Bulletin 2, 110-114).
    NaN for a single prompt.
    """
    means = [side.mean(axis=(0, 1)) for side in sides]
    difference = means[0] - sum(means[1:])
    of_prompts = sides[0].mean(axis=0) - sum(side.mean(axis=0) for side in sides[1:])
    prompts = len(of_prompts)
    if prompts < 2:
        return np.full_like(difference, np.nan), np.full_like(difference, np.nan)
    parts = [of_prompts.var(axis=0, ddof=1) / prompts]
    freedoms = [prompts - 1]
    for side, mean in zip(sides, means, strict=True):
        count = len(side)
        if count > 1:
            own = side.mean(axis=1)
            residual = side - own[:, None] - side.mean(axis=0) + mean
            freedom = (count - 1) * (prompts - 1)
            alone = (residual**2).sum(axis=(0, 1)) / freedom / (count * prompts)
            parts += [own.var(axis=0, ddof=1) / count, -alone]
            freedoms += [count - 1, freedom]
    return _t_interval(difference, np.array(parts), np.array(freedoms), confidence)


def _t_interval(
    centre: Floats, parts: Floats, freedoms: NDArray[np.intp], confidence: float
) -> tuple[Floats, Floats]:
    """Around `centre` (K,), with a variance that is the sum of `parts` (M, K), each with its degrees of freedom."""
    from scipy.special import stdtrit

    variance = np.maximum(parts.sum(axis=0), parts.max(axis=0))
    with np.errstate(invalid="ignore"):
        freedom = variance**2 / (parts**2 / freedoms[:, None]).sum(axis=0)
    quantile = stdtrit(np.maximum(np.nan_to_num(freedom, nan=1.0), 1.0), 0.5 + confidence / 2)
    half = quantile * np.sqrt(variance)
    return centre - half, centre + half


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


def _require(values: NDArray, clusters: NDArray, what: str = "prompts") -> None:
    if len(values) != len(clusters):
        raise TgoError(
            f"{len(values)} values came with {len(clusters)} {what}: they must be of equal length."
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
