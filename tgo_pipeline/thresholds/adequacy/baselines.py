"""One instance baseline against the one tau: flips, how far both are apart, and what that bounds."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from tgo_pipeline.params import ThresholdParams
from tgo_pipeline.thresholds.adequacy.bounds import (
    MARGINS,
    margin_bound,
    oracle_percentile,
    shares_near,
    weighted_median,
)
from tgo_pipeline.thresholds.adequacy.flips import (
    Baseline,
    Residuals,
    Shuffled,
    Ties,
    above,
    chunks,
    flip_rate,
    jackknife_noise,
    true_baselines,
    weighted_variance,
)
from tgo_pipeline.thresholds.adequacy.intervals import standard_error, t_quantile
from tgo_pipeline.thresholds.adequacy.table import AdequacyRow
from tgo_pipeline.thresholds.baselines import soft_ess, tau_q
from tgo_pipeline.thresholds.moments import Groups

WHAT_IF = (0.5, 1.0, 2.0)
"""Betas that are shown where none is declared, in standard deviations within a prompt."""
LOW_ESS = 5
"""With fewer effective samples a soft baseline is nearer the prompt's largest score than an average."""
BINS, TAIL = 48, 0.001
"""Bars of the chart of scores and baselines, which leaves out this share of the scores at either end: outliers would
squeeze all others into a few bars."""


def planned(params: ThresholdParams, beta: float | None, percentile: float, within: float) -> list[Baseline]:
    """The baselines to look at. `beta` is the declared one if it is in units of this reward, else None."""
    quantile = percentile
    if params.baseline == "prompt_quantile" and beta is not None:
        quantile, beta = tau_q(beta), None  # that beta belongs to quantiles and not to scores
    names = ("prompt_mean", "prompt_median", "prompt_mean_loo", "prompt_median_loo")
    found = [*(Baseline(name) for name in names), Baseline("prompt_quantile", quantile)]
    if beta is not None:
        soft = ("prompt_soft", "prompt_soft_loo", "prompt_soft_jackknife")
        return found + [Baseline(name, beta) for name in soft]
    if within <= 0:
        return found
    return found + [Baseline("prompt_soft", factor * math.sqrt(within), what_if=True) for factor in WHAT_IF]


@dataclass(frozen=True)
class Sample:
    """The scores of prompts with 2 samples or more, and what every baseline is held against."""

    groups: Groups
    weights: np.ndarray | None
    """Of each sample (N,), with tau as the threshold."""
    tau: float
    within: float
    confidence: float
    ties: Ties
    label: np.ndarray
    variance: float
    margins: np.ndarray
    near: np.ndarray
    residuals: Residuals
    shuffled: Shuffled

    @classmethod
    def of(
        cls,
        groups: Groups,
        weights: np.ndarray | None,
        tau: float,
        within: float,
        confidence: float,
        ties: Ties,
        seed: int,
    ) -> Sample:
        """Prepare what all baselines share."""
        rng = np.random.default_rng(seed)
        variance = groups.variance()
        margins = MARGINS * (math.sqrt(variance) or 1.0)
        return cls(
            groups,
            weights,
            tau,
            within,
            confidence,
            ties,
            above(groups.values, tau, ties),
            variance,
            margins,
            shares_near(np.sort(groups.values), tau, margins),
            Residuals.of(groups, rng),
            Shuffled.of(groups, rng),
        )

    @property
    def sizes(self) -> np.ndarray:
        """Samples of each prompt (G,)."""
        return self.groups.sizes

    def mean(self, values: np.ndarray) -> float:
        """Mean over samples of a value per prompt (G,) or per sample (N,)."""
        return float(
            np.average(values, weights=self.sizes) if values.size == self.sizes.size else values.mean()
        )

    def reach(self, totals: np.ndarray) -> float | None:
        """Half the width of the interval over prompts of the mean sum totals / N, from totals per prompt (G,)."""
        if self.sizes.size < 2:
            return None
        freedom = self.sizes.size - 1
        return standard_error(totals, self.sizes) * t_quantile((1 + self.confidence) / 2, freedom)


def baseline_rows(sample: Sample, baseline: Baseline) -> Iterator[AdequacyRow]:
    """The rows of one baseline."""
    values = baseline.values(sample.groups)
    name, at = baseline.name, baseline.at
    note = "what if: beta is not declared" if baseline.what_if else None
    other = baseline.positive(sample.groups, values, sample.ties)
    flips = flip_rate(sample.groups, sample.label, other, sample.confidence)
    del other
    distance = values - sample.tau
    offset = sample.mean(distance)
    np.square(distance, out=distance)
    squared = sample.mean(distance)
    del distance

    def row(
        statistic: str, value: float | None, low: float | None = None, high: float | None = None
    ) -> AdequacyRow:
        """A row of the table about this baseline."""
        return AdequacyRow(
            statistic=statistic, value=value, low=low, high=high, baseline=name, at=at, note=note
        )

    yield row("flip_rate", flips.value, flips.low, flips.high)
    yield row("flip_rate_null", sample.shuffled.flip_rate(baseline, sample.tau, sample.ties))
    yield row("baseline_offset", offset)
    yield row("baseline_variance", squared - offset**2)
    yield row("squared_error", squared)
    if name == "prompt_soft":
        yield from _soft(sample, baseline, values, note)
    noise = _noise(sample, baseline)
    if noise is not None:
        yield row("baseline_noise", noise)
        yield from _corrected(sample, baseline, values, noise, note)
    if not baseline.what_if:
        yield from _bounds(sample, baseline, squared, noise)
        yield from _weighted(sample, baseline, values)


def _noise(sample: Sample, baseline: Baseline) -> float | None:
    """Sampling variance of the baseline, where there is an estimate of it."""
    if baseline.shifts:
        return sample.shuffled.noise(baseline, sample.within)
    return jackknife_noise(sample.groups, baseline.beta) if baseline.name == "prompt_soft" else None


def _soft(sample: Sample, baseline: Baseline, values: np.ndarray, note: str | None) -> Iterator[AdequacyRow]:
    name, beta = baseline.name, baseline.beta
    ess = np.concatenate([soft_ess(part, beta) for part in chunks(sample.groups)])
    median, low = float(np.median(ess)), float(np.mean(ess < LOW_ESS))
    few = None
    if median < LOW_ESS:
        few = "too few: the soft baseline is nearer the prompt's largest score than an average"
    bias = float(np.mean(values - Baseline("prompt_soft_jackknife", beta).values(sample.groups)))
    together = "; ".join(text for text in (few, note) if text) or None
    yield AdequacyRow(statistic="soft_ess", baseline=name, at=beta, value=median, note=together)
    yield AdequacyRow(statistic="soft_ess_low", baseline=name, at=beta, value=low, note=note)
    yield AdequacyRow(statistic="soft_bias", baseline=name, at=beta, value=bias, note=note)
    percentile = oracle_percentile(math.sqrt(sample.within), beta)
    yield AdequacyRow(statistic="oracle_percentile", baseline=name, at=beta, value=percentile, note=note)


def _corrected(
    sample: Sample, baseline: Baseline, values: np.ndarray, noise: float, note: str | None
) -> Iterator[AdequacyRow]:
    """The ratio, flips and the density bound of the true baselines."""
    name, at, sizes = baseline.name, baseline.at, sample.sizes
    true = true_baselines(values, sizes, noise)
    shift = sample.mean(values) - sample.mean(sample.groups.means())
    flips = sample.residuals.flip_rate(true, sizes, sample.tau, shift)
    yield AdequacyRow(statistic="flip_rate_corrected", baseline=name, at=at, value=flips, note=note)
    if sample.variance:
        ratio = min(1.0, max(0.0, weighted_variance(values, sizes) - noise) / sample.variance)
        reach = sample.reach(sizes * (values - sample.mean(values)) ** 2 / sample.variance)
        low, high = (None, None) if reach is None else (max(0.0, ratio - reach), min(1.0, ratio + reach))
        yield AdequacyRow(statistic="ratio", baseline=name, at=at, value=ratio, low=low, high=high, note=note)
    density = sample.residuals.highest_density()
    if density is None:
        none = "too many equal scores: there is no density"
        yield AdequacyRow(statistic="density_bound", baseline=name, at=at, note=none)
    else:
        bound = density * sample.mean(np.abs(true - sample.tau))
        yield AdequacyRow(statistic="density_bound", baseline=name, at=at, value=bound, note=note)


def _bounds(sample: Sample, baseline: Baseline, squared: float, noise: float | None) -> Iterator[AdequacyRow]:
    name = baseline.name
    bound = margin_bound(sample.near, sample.margins, squared)
    margin, least = bound.least
    yield AdequacyRow(statistic="margin_bound", baseline=name, at=margin, value=least)
    if noise is not None:
        margin, least = margin_bound(sample.near, sample.margins, max(0.0, squared - noise)).least
        yield AdequacyRow(statistic="margin_bound_corrected", baseline=name, at=margin, value=least)
    if name in ("prompt_mean", "prompt_soft"):
        for margin, value in zip(bound.margins.tolist(), bound.bounds.tolist(), strict=True):
            yield AdequacyRow(statistic="margin_curve", baseline=name, at=margin, value=value)


def _weighted(sample: Sample, baseline: Baseline, values: np.ndarray) -> Iterator[AdequacyRow]:
    """E[w |t - b|] at t = tau and at its least."""
    if sample.weights is None:
        return
    weights, starts, sizes = sample.weights, sample.groups.starts, sample.sizes
    if not baseline.per_sample:
        weights = np.add.reduceat(weights, starts)
    best = weighted_median(values, weights)
    for statistic, threshold in (("weighted_distance", sample.tau), ("weighted_distance_least", best)):
        distances = values - threshold
        np.abs(distances, out=distances)
        distances *= weights
        totals = np.add.reduceat(distances, starts) if baseline.per_sample else distances
        mean, reach = float(totals.sum() / sizes.sum()), sample.reach(totals)
        low, high = (None, None) if reach is None else (max(0.0, mean - reach), mean + reach)
        yield AdequacyRow(
            statistic=statistic, baseline=baseline.name, at=threshold, value=mean, low=low, high=high
        )


def spread_rows(sample: Sample) -> Iterator[AdequacyRow]:
    """Histograms of the scores and of the prompts' means, estimated and true; what lies outside is in the end bins."""
    groups, sizes = sample.groups, sample.sizes
    least, most = np.quantile(groups.values, (TAIL, 1 - TAIL)).tolist()
    if least == most:
        return
    edges = np.linspace(least, most, BINS + 1)
    means = groups.means()
    true = true_baselines(means, sizes, sample.shuffled.noise(Baseline("prompt_mean"), sample.within))
    for statistic, baseline, values, weights in (
        ("score_share", None, groups.values, None),
        ("baseline_share", "prompt_mean", means, sizes),
        ("true_baseline_share", "prompt_mean", true, sizes),
    ):
        counts, _ = np.histogram(np.clip(values, least, most), bins=edges, weights=weights)
        shares = (counts / groups.values.size).tolist()
        for low, high, share in zip(edges[:-1].tolist(), edges[1:].tolist(), shares, strict=True):
            middle = (low + high) / 2
            yield AdequacyRow(
                statistic=statistic, baseline=baseline, at=middle, value=share, low=low, high=high
            )
