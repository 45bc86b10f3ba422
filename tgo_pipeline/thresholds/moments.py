"""What the scores look like: moments and quantiles, how much of their spread lies between prompts, flip rates."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

QUANTILES = (0.01, 0.05, 0.10, 0.25, 0.50, 0.75, 0.90, 0.95, 0.99)  # columns of the thresholds table
QUANTILE_NAMES = tuple(f"q{round(100 * q):02d}" for q in QUANTILES)


def moments(values: np.ndarray) -> dict[str, float | None]:
    """Moments and quantiles of finite `values` (n,), n >= 2, in score units.

    `std` has n - 1 in the denominator; `skewness` is m3 / m2^1.5 and `kurtosis` the excess m4 / m2^2 - 3 of the
    central moments, both None for constant scores; quantiles are numpy's `linear`.
    """
    low, high = float(values.min()), float(values.max())
    constant = low == high
    centred = values - values.mean()
    spread = float(np.mean(centred**2))
    scaled = centred / np.sqrt(spread) if not constant else centred
    return {
        "mean": float(values.mean()),
        "std": 0.0 if constant else float(values.std(ddof=1)),
        "skewness": None if constant else float(np.mean(scaled**3)),
        "kurtosis": None if constant else float(np.mean(scaled**4)) - 3,
        "minimum": low,
        "maximum": high,
        **dict(zip(QUANTILE_NAMES, np.quantile(values, QUANTILES).tolist(), strict=True)),
    }


@dataclass(frozen=True)
class Groups:
    """Scores in order of their prompt, and in order of score within it."""

    values: np.ndarray
    starts: np.ndarray
    sizes: np.ndarray

    @classmethod
    def of(cls, values: np.ndarray, prompts: np.ndarray) -> Groups:
        """Group `values` (n,) by whole numbers `prompts` (n,); only the prompts that occur make a group."""
        return cls.ordered(values, prompts)[0]

    @classmethod
    def ordered(cls, values: np.ndarray, prompts: np.ndarray) -> tuple[Groups, np.ndarray]:
        """The groups, and where each of their samples (n,) stands in `values`."""
        order = np.lexsort((values, prompts))
        owner = prompts[order]
        starts = np.flatnonzero(np.diff(owner, prepend=owner[0] - 1))
        return cls(values[order], starts, np.diff(starts, append=owner.size)), order

    def means(self) -> np.ndarray:
        """Mean of each group; exact where all of a group's scores are equal."""
        least = self.values[self.starts]
        return least + np.add.reduceat(self.values - self.spread(least), self.starts) / self.sizes

    def medians(self) -> np.ndarray:
        """Median of each group."""
        low = self.values[self.starts + (self.sizes - 1) // 2]
        return low + (self.values[self.starts + self.sizes // 2] - low) / 2

    def tops(self) -> np.ndarray:
        """Largest score of each group."""
        return self.values[self.starts + self.sizes - 1]

    def variance(self) -> float:
        """Variance of all scores (n in the denominator); exactly 0 where they are equal, which rounding may hide."""
        return float(self.values.var()) if self.values.min() < self.values.max() else 0.0

    def spread(self, per_group: np.ndarray) -> np.ndarray:
        """One value per group, repeated for each of its samples."""
        return np.repeat(per_group, self.sizes)


def variance_components(groups: Groups) -> tuple[float | None, float | None]:
    """Between- and within-prompt variance, the unbiased estimates of the one-way random-effects model.

    With P prompts of n_i samples, N in all: within = MSW = SSW / (N - P), between = (MSB - MSW) / n0 with
    MSB = sum n_i (mean_i - mean)^2 / (P - 1) and n0 = (N - sum n_i^2 / N) / (P - 1) (Searle, Casella & McCulloch,
    Variance Components, 3.6). Unbiased means that `between` may come out below 0 where prompts hardly differ.
    None where prompts or repeated samples are too few to tell.
    """
    count, total = groups.sizes.size, groups.values.size
    if count < 2 or total == count:
        return None, None
    if groups.variance() == 0:
        return 0.0, 0.0
    means = groups.means()
    within = float(np.sum((groups.values - groups.spread(means)) ** 2)) / (total - count)
    mean_square = float(np.sum(groups.sizes * (means - groups.values.mean()) ** 2)) / (count - 1)
    typical_size = (total - float(np.sum(groups.sizes.astype(np.float64) ** 2)) / total) / (count - 1)
    return (mean_square - within) / typical_size, within


def flip_rates(groups: Groups, tau: float) -> tuple[float | None, float | None]:
    """Share of samples whose label changes when tau is replaced by the mean, or the median, of their own prompt.

    Both labels are 1[s >= .]. Only prompts with at least 2 samples count; None twice where there are none.
    """
    repeated = groups.spread(groups.sizes) >= 2
    if not repeated.any():
        return None, None
    scores = groups.values[repeated]
    label = scores >= tau
    mean, median = (groups.spread(baseline)[repeated] for baseline in (groups.means(), groups.medians()))
    return float(np.mean(label != (scores >= mean))), float(np.mean(label != (scores >= median)))
