"""What the scores look like: moments and quantiles, how much of their spread lies between prompts, flip rates."""

from __future__ import annotations

import math

import numpy as np

from tgo_pipeline.thresholds.streams.column import ScoreColumn
from tgo_pipeline.thresholds.streams.groups import Groups

QUANTILES = (0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99)  # columns of the thresholds table
QUANTILE_NAMES = tuple(f"q{round(100 * q):02d}" for q in QUANTILES)


def moments(column: ScoreColumn) -> dict[str, float | None]:
    """Moments and quantiles of 2 scores or more, in score units.

    `std` has n - 1 in the denominator; `skewness` is m3 / m2^1.5 and `kurtosis` the excess m4 / m2^2 - 3 of the
    central moments, both None for constant scores; quantiles are numpy's `linear`.
    """
    constant = column.is_constant
    second, third, fourth = (power / column.n for power in column.powers)
    return {
        "mean": column.mean,
        "std": 0.0 if constant else math.sqrt(second * column.n / (column.n - 1)),
        "skewness": None if constant else third / second**1.5,
        "kurtosis": None if constant else fourth / second**2 - 3,
        "minimum": column.ordered.minimum,
        "maximum": column.ordered.maximum,
        **dict(zip(QUANTILE_NAMES, column.ordered.quantiles(QUANTILES), strict=True)),
    }


def variance_components(column: ScoreColumn) -> tuple[float | None, float | None]:
    """Between- and within-prompt variance, the unbiased estimates of the one-way random-effects model.

    With P prompts of n_i samples, N in all: within = MSW = SSW / (N - P), between = (MSB - MSW) / n0 with
    MSB = sum n_i (mean_i - mean)^2 / (P - 1) and n0 = (N - sum n_i^2 / N) / (P - 1) (Searle, Casella & McCulloch,
    Variance Components, 3.6). Unbiased means that `between` may come out below 0 where prompts hardly differ.
    None where prompts or repeated samples are too few to tell.
    """
    sizes, total = column.sizes, column.n
    count = sizes.size
    if count < 2 or total == count:
        return None, None
    if column.is_constant:
        return 0.0, 0.0
    within = float(column.squares.sum()) / (total - count)
    mean_square = float(np.sum(sizes * (column.means - column.mean) ** 2)) / (count - 1)
    typical_size = (total - float(np.sum(sizes.astype(np.float64) ** 2)) / total) / (count - 1)
    return (mean_square - within) / typical_size, within


def flip_rates(column: ScoreColumn, tau: float) -> tuple[float | None, float | None]:
    """Share of samples whose label changes when tau is replaced by the mean, or the median, of their own prompt.

    Both labels are 1[s >= .]. Only prompts with at least 2 samples count; None twice where there are none.
    """

    def flips(groups: Groups) -> np.ndarray:
        repeated = groups.spread(groups.sizes >= 2)
        changed = [
            (groups.values >= tau) != (groups.values >= groups.spread(own))
            for own in (groups.means(), groups.medians())
        ]
        return np.array([repeated.sum(), *(np.sum(each & repeated) for each in changed)], np.int64)

    count, of_mean, of_median = column.total(flips).tolist()
    return (of_mean / count, of_median / count) if count else (None, None)
