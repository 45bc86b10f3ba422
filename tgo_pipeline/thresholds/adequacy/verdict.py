"""The verdict: would the prompts' own thresholds flip more labels than is tolerated?

What is judged is D = E_x |F_x(tau) - q|: the labels that change when the one tau (at or above it a share 1 - q of all
scores) is replaced by each prompt's own q-quantile, F_x being the true distribution of the prompt's scores. With few
samples a prompt it cannot be counted: estimated thresholds flip labels by chance alone. But two samples of a prompt
tell V = Var_x F_x(tau) without bias, as the between-prompt variance of the labels, and V gives D:
  V / max(q, 1 - q) <= D <= sqrt(V)   for any distribution (|F - q| <= max(q, 1 - q), and Jensen);
  D = mean absolute deviation of a beta distribution with mean q and variance V   if F_x(tau) is spread that way.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from tgo_pipeline.thresholds.adequacy.intervals import Components, Interval, components, share, t_quantile
from tgo_pipeline.thresholds.adequacy.table import Verdict
from tgo_pipeline.thresholds.streams.tally import PromptTally

MIN_PROMPTS = 30
"""Prompts with 2 samples or more below which no interval is trusted: from there on Student's and the normal
interval agree to 4 %."""
MANY_TIMES = 50
"""A study that many times as large is not advice: nobody samples that much for a verdict."""
POWER = 0.8
"""Chance that a study of the advised size decides, as is usual for the power of tests (Cohen)."""
_SMALL_RATIO = 1e-6
"""Up to here the limit for a small ratio, the normal distribution, stands for the exact form."""


@dataclass(frozen=True)
class Heterogeneity:
    """D with its interval, its bound sqrt(V) with its upper end, and what both come from (None: nothing to judge)."""

    negative: float
    prompts: int
    size: float
    labels: Components | None = None
    flips: Interval | None = None
    bound: Interval | None = None

    @property
    def largest_variance(self) -> float:
        """q (1 - q), the variance of labels, and that of F_x(tau) if every prompt is all on one side."""
        return self.negative * (1 - self.negative)


@dataclass(frozen=True)
class Decision:
    """The verdict; with `undecided`, how many prompts of `size` samples would decide it (None: no number would)."""

    verdict: Verdict
    sentence: str
    needed_prompts: int | None = None
    size: int | None = None


def mean_deviation(ratio: float, q: float) -> float:
    """E|F - q| of a beta distribution with mean q and variance ratio q (1 - q), 0 <= ratio <= 1.

    2 a^a b^b / (B(a, b) (a + b)^(a + b + 1)) with a + b = 1 / ratio - 1 (Johnson, Kotz & Balakrishnan, 25.2); tends to
    that of the normal distribution, sqrt(2 V / pi), for a small ratio and to 2 q (1 - q) at 1.
    """
    if ratio <= _SMALL_RATIO or q in (0, 1):
        return math.sqrt(2 / math.pi * max(ratio, 0.0) * q * (1 - q))
    if ratio >= 1:
        return 2 * q * (1 - q)
    total = 1 / ratio - 1
    a, b = q * total, (1 - q) * total
    log_beta = math.lgamma(a) + math.lgamma(b) - math.lgamma(total)
    return 2 * math.exp(a * math.log(a) + b * math.log(b) - log_beta - (total + 1) * math.log(total))


def heterogeneity(
    negatives: np.ndarray, sizes: np.ndarray, confidence: float, times: np.ndarray | None = None
) -> Heterogeneity:
    """From the number of `negatives` (G,) in prompts of `sizes` (G,) samples, so many `times` each (`PromptTally`)."""
    times = np.ones_like(sizes) if times is None else times
    repeated = sizes >= 2
    negative = float(times @ negatives) / float(times @ sizes)
    size = _median(sizes[repeated], times[repeated]) if repeated.any() else 1.0
    known = Heterogeneity(negative, int(times[repeated].sum()), size)
    means = negatives / sizes
    labels = components(means, sizes * means * (1 - means), sizes, confidence, times)
    if labels is None or not 0 < negative < 1:
        return known
    if labels.log_f is None:
        several = PromptTally(negatives[repeated], sizes[repeated], times[repeated])
        labels = _without_jackknife(labels, several, negative, confidence)
    ratio = labels.ratio
    return Heterogeneity(
        negative,
        known.prompts,
        size,
        labels,
        _mapped(ratio, lambda part: mean_deviation(part, negative)),
        _mapped(ratio, lambda part: math.sqrt(part * negative * (1 - negative))),
    )


def _median(values: np.ndarray, times: np.ndarray) -> float:
    """The median of `values` (n,) of which there are so many `times`."""
    order = np.argsort(values)
    upto = np.cumsum(times[order])
    middle = upto.searchsorted([(upto[-1] - 1) // 2, upto[-1] // 2], side="right")
    return float(values[order[middle]].mean())


def _mapped(interval: Interval, change: Callable[[float], float]) -> Interval:
    """The interval of an increasing function of what it is for."""
    ends = [None if end is None else change(end) for end in (interval.low, interval.high)]
    return Interval(change(interval.value), ends[0], ends[1])


def _without_jackknife(labels: Components, negatives: PromptTally, q: float, confidence: float) -> Components:
    """Ends of the ratio where (almost) every prompt is on one side, or all prompts are split alike.

    A prompt shows both labels with probability E 2 F (1 - F) = 2 q (1 - q) (1 - ratio) or more (it is that for two
    samples), so that an upper end of that share is a lower end of the ratio.
    """
    mixed = (negatives.counts > 0) & (negatives.counts < negatives.sizes)
    most = share(mixed.astype(np.int64), np.ones_like(mixed, np.int64), confidence, negatives.times).high
    if labels.ratio.value == 0 or most is None:
        ratio = Interval(labels.ratio.value, 0.0, labels.ratio.value)
    else:
        ratio = Interval(labels.ratio.value, max(0.0, 1 - most / (2 * q * (1 - q))), 1.0)
    return Components(labels.between, labels.within, ratio, labels.typical_size)


def decide(found: Heterogeneity, tolerance: float, confidence: float) -> Decision:
    """adequate: the upper end of sqrt(V) is at most `tolerance`; inadequate: the lower end of D is above it.

    Both ends belong to a two-sided interval at `confidence`. Everything else is undecided, and so is whatever comes
    from fewer than `MIN_PROMPTS` prompts with 2 samples or more.
    """
    if not 0 < found.negative < 1:
        return Decision(
            "undecided", "Undecided: every score is on the same side of tau, so that it splits nothing."
        )
    size = max(4, round(found.size))
    planned = planned_prompts(found.negative, size, tolerance, confidence)
    if found.prompts < MIN_PROMPTS or found.flips is None or found.bound is None:
        return Decision("undecided", _too_few(found, planned, size), planned, size)
    level, most, least = f"{100 * confidence:g} %", found.bound.high, found.flips.low
    if most is not None and most <= tolerance:
        sentence = (
            f"One tau is enough: the prompts' own thresholds would flip {percent(most)} of the labels at most "
            f"({level} confidence, whatever the distribution); {percent(tolerance)} is tolerated."
        )
        return Decision("adequate", sentence)
    if least is not None and least > tolerance:
        sentence = (
            f"One tau is not enough: the prompts' own thresholds would flip about {percent(found.flips.value)} of the "
            f"labels, {percent(least)} at least ({level} confidence); {percent(tolerance)} is tolerated."
        )
        return Decision("inadequate", sentence)
    return _undecided(found, found.flips, tolerance, confidence)


def planned_prompts(q: float, size: int, tolerance: float, confidence: float) -> int:
    """Prompts with `size` samples that show one tau to be adequate, in 4 of 5 cases, if prompts do not differ at all.

    The ratio of labels is then estimated with variance 2 / (size (size - 1) prompts) about 0, and its upper end must
    stay below tolerance^2 / (q (1 - q)).
    """
    z = NormalDist().inv_cdf((1 + confidence) / 2) + NormalDist().inv_cdf(POWER)
    least = tolerance**2 / (q * (1 - q))
    return max(MIN_PROMPTS, math.ceil(2 * z**2 / (size * (size - 1) * least**2)))


def _too_few(found: Heterogeneity, planned: int, size: int) -> str:
    what = f"{found.prompts} prompts have 2 scores or more" if found.prompts else "no prompt has 2 scores"
    return (
        f"Undecided, too few samples: {what}, so that prompts cannot be told from chance. About {planned:,} prompts "
        f"with {size} images each would decide, if prompts do not differ."
    )


def _undecided(found: Heterogeneity, flips: Interval, tolerance: float, confidence: float) -> Decision:
    ends = f"from {percent(flips.low or 0)} to {percent(1 if flips.high is None else flips.high)}"
    sentence = (
        f"Undecided: the prompts' own thresholds would flip about {percent(flips.value)} of the labels, but anything "
        f"{ends} fits ({100 * confidence:g} % confidence); {percent(tolerance)} is tolerated."
    )
    size = max(2, round(found.size))
    needed = _needed_prompts(found, tolerance, confidence)
    if needed is None:  # the estimate is near the tolerance: by chance, if there is little data, or truly
        needed = planned_prompts(found.negative, size, tolerance, confidence)
        if needed <= found.prompts:
            sentence += " That is too near what is tolerated for more samples to settle it."
            return Decision("undecided", sentence)
    sentence += (
        f" About {needed:,} prompts with {size} images each would decide, or fewer prompts with more images."
    )
    return Decision("undecided", sentence, needed, size)


def _needed_prompts(found: Heterogeneity, tolerance: float, confidence: float) -> int | None:
    """Prompts at which the interval of log(MSB / MSW), as wide as 1 / sqrt(prompts), clears the tolerance."""
    labels = found.labels
    if labels is None or labels.log_f is None or not labels.error:
        return None
    enough = min(1 - 1e-9, tolerance**2 / found.largest_variance)
    too_much = _ratio_of_deviation(tolerance, found.negative)
    distance = max(
        labels.log_f_of(enough) - labels.log_f,
        0.0 if too_much is None else labels.log_f - labels.log_f_of(too_much),
    )
    reach = t_quantile((1 + confidence) / 2, found.prompts) * labels.error
    if distance <= reach / math.sqrt(MANY_TIMES):
        return None
    return math.ceil(found.prompts * (reach / distance) ** 2)


def _ratio_of_deviation(deviation: float, q: float) -> float | None:
    """The ratio whose `mean_deviation` this is, by bisection; None where none is that large."""
    if deviation >= 2 * q * (1 - q):
        return None
    low, high = 0.0, 1 - 1e-9
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_deviation(middle, q) < deviation else (low, middle)
    return high


def percent(part: float) -> str:
    """A share to three digits."""
    return f"{100 * part:.3g} %"
