"""One instance baseline against the one tau: flips, how far both are apart, and what that bounds."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np

from tgo_pipeline.params import ThresholdParams
from tgo_pipeline.thresholds.adequacy.bounds import (
    FIRST_REACH,
    MARGINS,
    NearMedian,
    ends_about,
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
    drawn,
    soft_facts,
    some_prompts,
    true_baselines,
)
from tgo_pipeline.thresholds.adequacy.intervals import share, standard_error, t_quantile
from tgo_pipeline.thresholds.adequacy.table import AdequacyRow
from tgo_pipeline.thresholds.baselines import tau_q
from tgo_pipeline.thresholds.streams.column import ScoreColumn
from tgo_pipeline.thresholds.streams.groups import Groups, dot
from tgo_pipeline.thresholds.streams.tally import PromptTally

WHAT_IF = (0.5, 1.0, 2.0)
"""Betas that are shown where none is declared, in standard deviations within a prompt."""
LOW_ESS = 5
"""With fewer effective samples a soft baseline is nearer the prompt's largest score than an average."""
SOME_PROMPTS = 20_000
"""Prompts that say where a weighted median over prompts is looked for."""
NOWHERE = (0.0, 0.0)
"""Ends between which no median is looked for."""
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


Weigh = Callable[[np.ndarray], np.ndarray]
"""From scores (N,) to their label weights."""


@dataclass(frozen=True)
class Sample:
    """The scores of prompts with 2 samples or more, and what every baseline is held against."""

    column: ScoreColumn
    weigh: Weigh | None
    """With tau as the threshold."""
    tau: float
    within: float
    confidence: float
    ties: Ties
    margins: np.ndarray
    near: np.ndarray
    weights: np.ndarray | None
    """Sum of each prompt (G,)."""
    some: Groups
    """All prompts, or a random part of many."""
    residuals: Residuals
    shuffled: Shuffled

    @classmethod
    def of(
        cls,
        column: ScoreColumn,
        weigh: Weigh | None,
        tau: float,
        within: float,
        confidence: float,
        ties: Ties,
        seed: int,
    ) -> Sample:
        """Prepare what all baselines share."""
        rng = np.random.default_rng(seed)
        margins = MARGINS * (math.sqrt(column.variance) or 1.0)
        near = shares_near(column.ordered, tau, margins)
        weights = weigh and column.per_prompt(lambda part: part.total(weigh(part.values)))
        some = some_prompts(column, rng)
        return cls(
            column,
            weigh,
            tau,
            within,
            confidence,
            ties,
            margins,
            near,
            weights,
            some,
            Residuals.of(some),
            Shuffled.of(column, rng),
        )

    @cached_property
    def sizes(self) -> np.ndarray:
        """Samples of each prompt (G,), as float64: they are multiplied by other numbers many times."""
        return self.column.sizes.astype(np.float64)

    def mean(self, values: np.ndarray) -> float:
        """Mean over samples of a value per prompt (G,)."""
        return dot(values, self.sizes) / self.column.n

    def reach(self, totals: np.ndarray) -> float | None:
        """Half the width of the interval over prompts of the mean sum totals / N, from totals per prompt (G,)."""
        if self.sizes.size < 2:
            return None
        freedom = self.sizes.size - 1
        return standard_error(totals, self.sizes) * t_quantile((1 + self.confidence) / 2, freedom)


class SeenFlips(NamedTuple):
    """A baseline in one part of the prompts, or in all."""

    hits: PromptTally
    """Labels that it changes, by prompt."""
    distance: float
    """Sum over samples of its distance from tau."""
    square: float
    by_prompt: Mapping[str, np.ndarray]
    """Of each prompt (G,): `values` unless every sample has its own, then `weighted`, the sum of w |tau - b|, if there
    are weights; `ess` of `prompt_soft`."""
    near: NearMedian | None = None
    """Where every sample has its own and a weight."""
    bias: float = 0.0
    """Of `prompt_soft`, as `SoftFacts` has it."""
    noise: float = 0.0

    @classmethod
    def of_part(
        cls,
        groups: Groups,
        weights: np.ndarray | None,
        sample: Sample,
        baseline: Baseline,
        ends: tuple[float, float],
    ) -> SeenFlips:
        """Look at some prompts, whose samples have `weights` (N,)."""
        soft = soft_facts(groups, baseline.beta) if baseline.name == "prompt_soft" else None
        values = baseline.values(groups) if soft is None else soft.values
        flips = above(groups.values, sample.tau, sample.ties)
        flips ^= baseline.positive(groups, values, sample.ties)
        hits, distance = PromptTally.of(groups.count(flips), groups.sizes), values - sample.tau
        if baseline.per_sample:
            seen = cls(hits, float(distance.sum()), dot(distance, distance), {})
            if weights is None:
                return seen
            weighted = {"weighted": _distances(groups, weights, distance)}
            return seen._replace(by_prompt=weighted, near=NearMedian.of(values, weights, ends))
        seen = cls(hits, dot(distance, groups.sizes), dot(distance**2, groups.sizes), {"values": values})
        if soft is None:
            return seen
        return seen._replace(by_prompt={"values": values, "ess": soft.ess}, bias=soft.bias, noise=soft.noise)

    @classmethod
    def joined(cls, parts: Sequence[SeenFlips], by_prompt: Mapping[str, np.ndarray]) -> SeenFlips:
        """All prompts, from what was seen of their parts."""
        near = [part.near for part in parts if part.near is not None]
        return cls(
            PromptTally.joined([part.hits for part in parts]),
            sum(part.distance for part in parts),
            sum(part.square for part in parts),
            by_prompt,
            NearMedian.joined(near) if near else None,
            sum(part.bias for part in parts),
            sum(part.noise for part in parts),
        )


def seen_flips(sample: Sample, baselines: Sequence[Baseline]) -> Iterator[SeenFlips]:
    """Each baseline in all prompts, which are read once for all of them."""
    ends = [
        ends_about(baseline.values(sample.some), FIRST_REACH) if baseline.per_sample else NOWHERE
        for baseline in baselines
    ]

    def look(groups: Groups) -> tuple[list[np.ndarray], list[SeenFlips]]:
        weights = None if sample.weigh is None else sample.weigh(groups.values)
        pairs = zip(baselines, ends, strict=True)
        seen = [SeenFlips.of_part(groups, weights, sample, *pair) for pair in pairs]
        arrays = [array for each in seen for array in each.by_prompt.values()]
        return arrays, [each._replace(by_prompt=dict.fromkeys(each.by_prompt)) for each in seen]

    arrays, parts = sample.column.per_prompts(look)
    for of_one in zip(*parts, strict=True):
        yield SeenFlips.joined(of_one, {name: arrays.pop(0) for name in of_one[0].by_prompt})


def baseline_rows(sample: Sample, baseline: Baseline, seen: SeenFlips) -> Iterator[AdequacyRow]:
    """The rows of one baseline."""
    name, at, count = baseline.name, baseline.at, sample.column.n
    note = "what if: beta is not declared" if baseline.what_if else None
    flips = share(seen.hits.counts, seen.hits.sizes, sample.confidence, seen.hits.times)
    offset, squared = seen.distance / count, seen.square / count

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
    noise = sample.shuffled.noise(baseline, sample.within) if baseline.shifts else None
    if name == "prompt_soft":
        noise = seen.noise / count
        yield from _soft(sample, baseline, seen, note)
    if noise is not None:
        yield row("baseline_noise", noise)
        yield from _corrected(sample, baseline, seen.by_prompt["values"], noise, note)
    if not baseline.what_if:
        yield from _bounds(sample, baseline, squared, noise)
        yield from _weighted(sample, baseline, seen)


def _soft(sample: Sample, baseline: Baseline, seen: SeenFlips, note: str | None) -> Iterator[AdequacyRow]:
    name, beta = baseline.name, baseline.beta
    ess = seen.by_prompt["ess"]
    median, low = float(np.median(ess)), float(np.mean(ess < LOW_ESS))
    few = None
    if median < LOW_ESS:
        few = "too few: the soft baseline is nearer the prompt's largest score than an average"
    bias = seen.bias / sample.sizes.size
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
    centre = sample.mean(values)
    squares = (values - centre) ** 2
    spread = sample.mean(squares)
    true = drawn(values, centre, spread, noise)
    shift = centre - sample.mean(sample.column.means)
    flips = sample.residuals.flip_rate(true, sizes, sample.tau, shift)
    yield AdequacyRow(statistic="flip_rate_corrected", baseline=name, at=at, value=flips, note=note)
    if variance := sample.column.variance:
        ratio = min(1.0, max(0.0, spread - noise) / variance)
        squares *= sizes
        squares /= variance
        reach = sample.reach(squares)
        low, high = (None, None) if reach is None else (max(0.0, ratio - reach), min(1.0, ratio + reach))
        yield AdequacyRow(statistic="ratio", baseline=name, at=at, value=ratio, low=low, high=high, note=note)
    density = sample.residuals.highest_density
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


def _weighted(sample: Sample, baseline: Baseline, seen: SeenFlips) -> Iterator[AdequacyRow]:
    """E[w |t - b|] at t = tau and at its least."""
    weigh, weights = sample.weigh, sample.weights
    if weigh is None or weights is None:
        return
    if baseline.per_sample:
        best = _median_of_samples(sample, baseline, seen, weigh)
        at_tau, totals = (
            seen.by_prompt["weighted"],
            sample.column.per_prompt(
                lambda groups: _distances(groups, weigh(groups.values), baseline.values(groups) - best)
            ),
        )
    else:
        values = seen.by_prompt["values"]
        some = values[:: max(1, values.size // SOME_PROMPTS)]
        best = weighted_median(lambda ends: NearMedian.of(values, weights, ends), some)
        at_tau, totals = (weights * np.abs(values - at) for at in (sample.tau, best))
    for statistic, at, distances in (
        ("weighted_distance", sample.tau, at_tau),
        ("weighted_distance_least", best, totals),
    ):
        mean, reach = float(distances.sum() / sample.column.n), sample.reach(distances)
        low, high = (None, None) if reach is None else (max(0.0, mean - reach), mean + reach)
        yield AdequacyRow(statistic=statistic, baseline=baseline.name, at=at, value=mean, low=low, high=high)


def _distances(groups: Groups, weights: np.ndarray, apart: np.ndarray) -> np.ndarray:
    """Sum of w |t - b| of each group (G,) from `weights` and t - b of each sample (N,)."""
    distances = np.abs(apart)
    distances *= weights
    return groups.total(distances)


def _median_of_samples(sample: Sample, baseline: Baseline, seen: SeenFlips, weigh: Weigh) -> float:
    """The weighted median of a baseline that every sample has its own of."""

    def look(ends: tuple[float, float]) -> NearMedian:
        def part(groups: Groups) -> NearMedian:
            return NearMedian.of(baseline.values(groups), weigh(groups.values), ends)

        return NearMedian.joined(list(sample.column.each(part)))

    return weighted_median(look, baseline.values(sample.some), seen.near)


def spread_rows(sample: Sample) -> Iterator[AdequacyRow]:
    """Histograms of the scores and of the prompts' means, estimated and true; what lies outside is in the end bins."""
    column, sizes = sample.column, sample.sizes
    least, most = column.ordered.quantiles((TAIL, 1 - TAIL))
    if least == most:
        return
    edges = np.linspace(least, most, BINS + 1)
    inside = column.ordered.histogram(edges)
    inside[0] += column.ordered.counts(least, "left")
    inside[-1] += column.n - column.ordered.counts(most, "right")
    means = column.means
    true = true_baselines(means, sizes, sample.shuffled.noise(Baseline("prompt_mean"), sample.within))
    estimated, without_noise = (
        np.histogram(np.clip(values, least, most), BINS, (least, most), weights=sizes)[0]
        for values in (means, true)
    )
    for statistic, baseline, counts in (
        ("score_share", None, inside),
        ("baseline_share", "prompt_mean", estimated),
        ("true_baseline_share", "prompt_mean", without_noise),
    ):
        shares = (counts / column.n).tolist()
        for low, high, share_of_all in zip(edges[:-1].tolist(), edges[1:].tolist(), shares, strict=True):
            middle = (low + high) / 2
            yield AdequacyRow(
                statistic=statistic, baseline=baseline, at=middle, value=share_of_all, low=low, high=high
            )
