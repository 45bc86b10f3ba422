"""Labels that would change if each sample were compared with its own prompt in place of the one tau.

Counted with baselines that are estimated from few samples, flips are mostly chance: four samples a prompt flip one
label in six against the prompt's mean even if all prompts are alike. So every count stands beside the same count with
the scores shuffled over the prompts, and beside an estimate for the true baselines, in which the sampling noise of the
baselines is taken out. (Flips do not add: a count of 19 % where shuffling gives 17 % may hide a true 10 %.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np

from tgo_pipeline.thresholds import baselines
from tgo_pipeline.thresholds.streams.column import ScoreColumn
from tgo_pipeline.thresholds.streams.groups import Groups, dot

SHUFFLED = 300_000
"""About how many samples are drawn to shuffle: a share of them is known to a thousandth."""
MOST_SHUFFLES = 500
"""Shuffles of a small set, which would need very many to reach `SHUFFLED` samples."""
MOST_RESIDUALS = 1_000_000
"""Of more samples a random part is taken, whose distribution is known to a thousandth."""
SOUGHT = 200_000
"""Points that are put in order and looked up together: memory, and the processor's cache, hold so many."""
Ties = Literal["positive", "negative"]


@dataclass(frozen=True)
class Baseline:
    """What a sample is compared with: a key of `adequacy_table.BASELINES` and its beta or quantile, `at`."""

    name: str
    at: float | None = None
    what_if: bool = False

    @property
    def per_sample(self) -> bool:
        """Whether samples of one prompt have different values."""
        return self.name.endswith("_loo")

    @property
    def shifts(self) -> bool:
        """Whether it follows the scores when they are moved or stretched, as its sampling noise then does."""
        return self.name in ("prompt_mean", "prompt_median", "prompt_quantile")

    @property
    def beta(self) -> float:
        """Of a soft baseline, in score units."""
        if self.at is None:
            raise ValueError(f"{self.name} has no beta")
        return self.at

    def values(self, groups: Groups) -> np.ndarray:
        """In score units, of each group (G,), or of each sample (N,) where a sample is left out."""
        match self.name:
            case "prompt_mean":
                return groups.means()
            case "prompt_median":
                return groups.medians()
            case "prompt_quantile":
                return baselines.percentiles(groups, self.beta)
            case "prompt_soft":
                return baselines.soft(groups, self.beta)
            case "prompt_soft_jackknife":
                return baselines.soft_jackknife(groups, self.beta)
            case "prompt_mean_loo":
                return baselines.leave_one_out(groups, "mean")
            case "prompt_median_loo":
                return baselines.leave_one_out(groups, "median")
            case "prompt_soft_loo":
                return baselines.leave_one_out(groups, "soft", self.beta)
        raise ValueError(self.name)

    def positive(self, groups: Groups, values: np.ndarray, ties: Ties) -> np.ndarray:
        """The labels (N,) that it gives, from its `values`."""
        if self.name == "prompt_quantile":
            return above(baselines.quantiles(groups), self.beta, ties)
        return above(groups.values, values if self.per_sample else groups.spread(values), ties)


def above(scores: np.ndarray, threshold: np.ndarray | float, ties: Ties) -> np.ndarray:
    """Which scores are at or above the threshold; only above it, with `ties="negative"`."""
    return scores >= threshold if ties == "positive" else scores > threshold


@dataclass(frozen=True)
class Shuffled:
    """The scores dealt out to the prompts at random, as often as it takes: a world in which all prompts are alike."""

    groups: Groups
    variance: float

    @classmethod
    def of(cls, column: ScoreColumn, rng: np.random.Generator) -> Shuffled:
        """Prompts keep their numbers of samples. Of many prompts a random part is dealt to."""
        sizes = column.sizes
        if column.n > SHUFFLED:
            part, ends = rng.permutation(sizes.size), np.cumsum(sizes)
            some = sizes[part[: max(2, np.searchsorted(np.cumsum(sizes[part]), SHUFFLED))]]
            places = rng.integers(0, column.n, some.sum())
            prompts = ends.searchsorted(places, side="right")
            values, sizes = column.take(prompts, places - (ends - sizes)[prompts]), some
        else:
            times = min(MOST_SHUFFLES, max(1, SHUFFLED // column.n))
            values = np.broadcast_to(column.take(*_every(sizes)), (times, column.n))
            values, sizes = rng.permuted(values, axis=1).ravel(), np.tile(sizes, times)
        return cls(Groups.of_runs(values, sizes), column.variance)

    def flip_rate(self, baseline: Baseline, tau: float, ties: Ties) -> float:
        """Labels that the baseline flips here, where they are all due to its noise and its distance from tau."""
        label = above(self.groups.values, tau, ties)
        other = baseline.positive(self.groups, baseline.values(self.groups), ties)
        return float(np.mean(label != other))

    def noise(self, baseline: Baseline, within: float) -> float:
        """Sampling variance of a baseline that `shifts`, for scores of variance `within` about their prompt."""
        if not self.variance:
            return 0.0
        values = baseline.values(self.groups)
        return weighted_variance(values, self.groups.sizes) * within / self.variance


class SoftFacts(NamedTuple):
    """The soft baseline of some prompts, and what few samples do to it."""

    values: np.ndarray
    """Of each prompt (G,)."""
    ess: np.ndarray
    """Effective samples of each prompt (G,)."""
    bias: float
    """Sum over prompts of the value less the jackknifed one."""
    noise: float
    """Sum over samples of the sampling variance by the jackknife, (K - 1)^2 / K times the variance of the
    leave-one-out values: an underestimate where `ess` is low."""


def soft_facts(groups: Groups, beta: float) -> SoftFacts:
    """Of prompts with two samples or more."""
    growth = baselines.Growth.of(groups, beta)
    without, values = growth.soft_of_others(), growth.soft()
    means = groups.total(without) / groups.sizes
    bias = (groups.sizes - 1) * (means - values)
    without -= groups.spread(means)
    np.square(without, out=without)
    noise = dot(groups.total(without), groups.sizes - 1)
    return SoftFacts(values, growth.ess(), float(bias.sum()), noise)


def weighted_variance(values: np.ndarray, sizes: np.ndarray) -> float:
    """Variance over samples of a value (G,) that all `sizes` (G,) samples of a group share."""
    return float(np.average((values - np.average(values, weights=sizes)) ** 2, weights=sizes))


def true_baselines(values: np.ndarray, sizes: np.ndarray, noise: float) -> np.ndarray:
    """Baselines (G,) drawn to their mean until their variance is what it is without its sampling `noise`.

    The spread, not each value, is right (constrained empirical Bayes, Louis 1984).
    """
    centre = float(np.average(values, weights=sizes))
    return drawn(values, centre, weighted_variance(values, sizes), noise)


def drawn(values: np.ndarray, centre: float, variance: float, noise: float) -> np.ndarray:
    """`true_baselines` of values (G,) of this mean and `variance` over samples."""
    if variance <= noise:
        return np.full_like(values, centre)
    return centre + math.sqrt(1 - noise / variance) * (values - centre)


def some_prompts(column: ScoreColumn, rng: np.random.Generator, samples: int = MOST_RESIDUALS) -> Groups:
    """Random prompts with about so many samples together, or all if that is not more."""
    sizes, part = column.sizes, np.arange(column.sizes.size)
    if column.n > samples:
        part = rng.permutation(sizes.size)
        part = np.sort(part[: max(2, int(np.searchsorted(np.cumsum(sizes[part]), samples)))])
    prompts, ranks = _every(sizes[part])
    return Groups.of_runs(column.take(part[prompts], ranks), sizes[part])


def _every(sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All samples (N,) of prompts of `sizes` (G,): the number of their prompt, and their rank in it."""
    ends = np.cumsum(sizes)
    return np.repeat(np.arange(sizes.size), sizes), np.arange(ends[-1]) - np.repeat(ends - sizes, sizes)


@dataclass(frozen=True)
class Residuals:
    """Deviations of scores from the true mean of their prompt, sorted: s - mean, stretched by sqrt(K / (K - 1))."""

    ordered: np.ndarray

    @classmethod
    def of(cls, groups: Groups) -> Residuals:
        """Of prompts with two samples or more."""
        values = groups.values - groups.spread(groups.means())
        values *= groups.spread(np.sqrt(groups.sizes / np.maximum(groups.sizes - 1, 1)))
        return cls(np.sort(values))

    def below(self, points: np.ndarray) -> np.ndarray:
        """Share below each of the points; look-ups in ascending order stay in the cache."""
        return self.ordered.searchsorted(points) / self.ordered.size

    def flip_rate(self, true: np.ndarray, sizes: np.ndarray, tau: float, shift: float) -> float:
        """E|G(tau - mu) - G(shift)| over baselines `true` (G,) = mu + shift, G being the distribution of residuals.

        What the true baselines flip where the prompts' distributions differ by their place alone.
        """
        flipped, at_shift, alike = 0.0, self.below(np.array([shift])), sizes.min() == sizes.max()
        for first in range(0, true.size, SOUGHT):
            points, weights = tau - true[first : first + SOUGHT] + shift, sizes[first : first + SOUGHT]
            if alike:
                points.sort()  # without their places, in two thirds of the time
            else:
                order = np.argsort(points)
                points, weights = points[order], weights[order]
            flipped += dot(np.abs(self.below(points) - at_shift), weights)
        return flipped / float(sizes.sum())

    @cached_property
    def highest_density(self) -> float | None:
        """Largest share of residuals per score unit, over runs of n^(4/5) / 2 neighbours (and the bins of a histogram
        would be as wide); None where so many are equal that there is no density."""
        count = self.ordered.size
        run = min(count - 1, max(2, round(count**0.8 / 2)))
        width = float(np.min(self.ordered[run:] - self.ordered[:-run]))
        return run / count / width if width > 0 else None
