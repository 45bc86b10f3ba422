"""Intervals over prompts, in closed form: nothing is resampled, so that ten million scores cost a few passes.

Prompts are independent, samples of one prompt are not; every interval here treats a prompt as one observation.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from tgo_pipeline.errors import TgoError

Counts = np.ndarray
"""Whole numbers."""
ROUNDING = 1e-12
"""What is left of a sum of squares once all of it is subtracted again, as a share of the largest such rest."""


@dataclass(frozen=True)
class Interval:
    """An estimate and its ends; an end is None where nothing can be said about it."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Components:
    """One-way random-effects model of the scores (or labels) of prompts.

    `between` and `within` are the unbiased variance components, `ratio` is between / (between + within), cut to
    [0, 1]. `log_f` and `error` are the jackknifed log(MSB / MSW) and its standard error, None where a prompt cannot be
    left out; `typical_size` is n0, the samples of a prompt (below their mean where sizes differ).
    """

    between: float
    within: float
    ratio: Interval
    typical_size: float
    log_f: float | None = None
    error: float | None = None

    def log_f_of(self, ratio: float) -> float:
        """log(MSB / MSW) that a ratio in [0, 1) corresponds to."""
        return float(np.log1p(self.typical_size * ratio / (1 - ratio)))


def t_quantile(level: float, freedom: int) -> float:
    """The quantile of Student's t at `level` in (0, 1) with `freedom` degrees of freedom, 1 or more."""
    from scipy.special import stdtrit

    if freedom < 1:
        raise TgoError(f"Student's t has no quantile at {freedom} degrees of freedom: two values are needed.")
    return float(stdtrit(freedom, level))


def wilson_interval(
    rate: float, n: float, confidence: float, freedom: int | None = None
) -> tuple[float, float]:
    """The score interval of a binomial rate from `n` trials (Wilson 1927); `n` may be an effective size.

    With `freedom`, Student's quantile takes the place of the normal one, for a size that was itself estimated from so
    few groups. Raises `TgoError` if there is no trial or the rate is outside [0, 1].
    """
    if not n > 0:
        raise TgoError(f"a rate over {n:g} trials has no interval: at least one comparison is needed.")
    if not 0 <= rate <= 1:
        raise TgoError(f"the rate is {rate:g}: it must be from 0 to 1.")
    level = 0.5 + confidence / 2
    z = NormalDist().inv_cdf(level) if freedom is None else t_quantile(level, freedom)
    scale = 1 + z * z / n
    centre = (rate + z * z / (2 * n)) / scale
    half = z / scale * math.sqrt(rate * (1 - rate) / n + z * z / (4 * n * n))
    return max(0.0, min(rate, centre - half)), min(
        1.0, max(rate, centre + half)
    )  # rounding may cross the rate


def share(hits: Counts, sizes: Counts, confidence: float, times: Counts | None = None) -> Interval:
    """Share of samples with a property, from its counts `hits` (G,) in prompts of `sizes` (G,) samples.

    With `times` (G,) there are so many prompts like each (`PromptTally`), here and below. Wilson's interval with
    Student's quantile at the effective number of samples p (1 - p) / se^2, at most all of them; se is the linearised
    standard error of the ratio sum hits / sum sizes over prompts (Korn & Graubard 1998). Where every sample agrees, a
    prompt counts as one sample.
    """
    groups, total = _count(sizes, times), float(_sum(sizes, times))
    value = float(_sum(hits, times)) / total
    if groups < 2:
        return Interval(value)
    if value in (0, 1):
        return Interval(value, *wilson_interval(value, groups, confidence, groups - 1))
    error = standard_error(hits, sizes, times)
    effective = min(total, value * (1 - value) / error**2) if error else total
    return Interval(value, *wilson_interval(value, effective, confidence, groups - 1))


def standard_error(totals: np.ndarray, sizes: Counts, times: Counts | None = None) -> float:
    """Standard error over prompts of the mean sum totals / sum sizes, both (G,), G >= 2, by linearisation."""
    groups, total = _count(sizes, times), _sum(sizes, times)
    residuals = totals - _sum(totals, times) / total * sizes
    np.square(residuals, out=residuals)
    return float(np.sqrt(groups / (groups - 1) * _sum(residuals, times)) / total)


def _count(sizes: Counts, times: Counts | None) -> int:
    return sizes.size if times is None else int(times.sum())


def _sum(values: np.ndarray, times: Counts | None) -> np.ndarray:
    return values.sum() if times is None else np.sum(times * values)


def components(
    means: np.ndarray, squares: np.ndarray, sizes: Counts, confidence: float, times: Counts | None = None
) -> Components | None:
    """Components of prompts with `means`, sums of squared deviations from them, and `sizes`, all (G,).

    Method of moments as in `moments.variance_components`; the interval of the ratio is that of log(MSB / MSW) with
    every prompt left out in turn and a t quantile, which needs no normality (Arvesen & Schmitz 1970). None where
    fewer than 3 prompts, no repeated sample, or values that are all equal leave nothing to estimate.
    """
    groups, total = _count(sizes, times), int(_sum(sizes, times))
    if groups < 3 or total == groups:
        return None
    means = means - means[0]  # first, so that equal means are exactly 0 from their centre
    means -= float(_sum(means * sizes, times)) / total
    between_squares = sizes * means**2
    within = float(_sum(squares, times)) / (total - groups)
    mean_square = float(_sum(between_squares, times)) / (groups - 1)
    if mean_square == within == 0:
        return None
    typical_size = (total - float(_sum(sizes.astype(np.float64) ** 2, times)) / total) / (groups - 1)
    between = (mean_square - within) / typical_size
    log_f, error = _jackknife(means, squares, sizes, between_squares, mean_square, within, times)
    ratio = Interval(_ratio(between, within))
    if log_f is not None and error is not None:
        reach = t_quantile((1 + confidence) / 2, groups - 1) * error
        low, high = (_ratio_of(log_f + sign * reach, typical_size) for sign in (-1, 1))
        ratio = Interval(ratio.value, min(low, ratio.value), max(high, ratio.value))
    return Components(between, within, ratio, typical_size, log_f, error)


def _ratio(between: float, within: float) -> float:
    return max(between, 0.0) / (max(between, 0.0) + within) if between > 0 or within > 0 else 0.0


def _ratio_of(log_f: float, typical_size: float) -> float:
    excess = float(np.expm1(min(log_f, 700.0)))  # e^709 is the last that a double holds
    return min(1.0, max(0.0, excess / (excess + typical_size)))


def _jackknife(
    means: np.ndarray,
    squares: np.ndarray,
    sizes: np.ndarray,
    between_squares: np.ndarray,
    mean_square: float,
    within: float,
    times: Counts | None,
) -> tuple[float | None, float | None]:
    """log(MSB / MSW) without its first-order bias, and its standard error over prompts; `means` are centred."""
    groups, total = _count(sizes, times), float(_sum(sizes, times))
    left_total = total - sizes
    shift = (sizes * means) ** 2 / left_total  # the grand mean moves when a prompt leaves
    left_between = (_sum(between_squares, times) - between_squares - shift) / (groups - 2)
    freedom = left_total - (groups - 1)
    left_squares = _sum(squares, times) - squares
    if min(mean_square, within, freedom.min()) <= 0 or _vanishes(left_between) or _vanishes(left_squares):
        return None, None
    pseudo = np.log(left_squares / freedom)
    pseudo -= np.log(left_between)
    pseudo *= groups - 1
    pseudo += groups * np.log(mean_square / within)
    mean = float(_sum(pseudo, times)) / groups
    pseudo -= mean
    variance = float(_sum(pseudo**2, times)) / (groups - 1)
    return mean, math.sqrt(variance / groups)


def _vanishes(rests: np.ndarray) -> bool:
    """Whether one of these sums of squares is zero but for rounding: its logarithm would be noise."""
    return bool(rests.min() <= ROUNDING * rests.max())
