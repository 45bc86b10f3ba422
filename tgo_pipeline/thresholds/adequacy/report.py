"""Is one tau enough here? Everything that the answer rests on, for every row of the thresholds table.

The unit is the prompt: intervals are over prompts, and a prompt with one sample counts only where it can. Flips, bounds
and distances are over the prompts with 2 samples or more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import LabelParams, Params, ThresholdParams
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.thresholds.adequacy.baselines import (
    Sample,
    Weigh,
    baseline_rows,
    planned,
    seen_flips,
    spread_rows,
)
from tgo_pipeline.thresholds.adequacy.bounds import sampling_flips
from tgo_pipeline.thresholds.adequacy.flips import above
from tgo_pipeline.thresholds.adequacy.intervals import Components, components, standard_error
from tgo_pipeline.thresholds.adequacy.table import AdequacyRow, Statistics
from tgo_pipeline.thresholds.adequacy.verdict import Decision, Heterogeneity, decide, heterogeneity, percent
from tgo_pipeline.thresholds.streams.column import ScoreColumn
from tgo_pipeline.thresholds.streams.groups import Groups, dot
from tgo_pipeline.thresholds.streams.tally import PromptTally

PERCENTILES = tuple(percent / 100 for percent in range(10, 100, 10))  # other choices that are shown
METRICS = ("ratio", "heterogeneity")
NO_RATIO = "fewer than 3 prompts, no prompt with 2 scores, or all scores equal"


def metrics(table: pa.Table) -> dict[str, dict[str, Any]]:
    """What `dvc metrics` shows of it, by reward: the verdict, R and the flip rate it was judged by."""
    chosen: dict[str, dict[str, Any]] = {}
    for row in table.to_pylist():
        numbers = chosen.setdefault(row["reward"], {})
        if row["statistic"] == "verdict":
            numbers["verdict"] = row["baseline"]
        elif row["statistic"] in METRICS and row["baseline"] is None:
            numbers[row["statistic"]] = row["value"]
    return chosen


def judge(column: ScoreColumn, row: Mapping[str, Any], params: Params) -> list[AdequacyRow]:
    """Every statistic of one reward, the verdict first. `row` is its row of the thresholds table."""
    if row["tau"] is None:
        return [AdequacyRow(statistic="verdict", baseline="undecided", note=f"Undecided: {row['note']}.")]
    threshold = params.threshold
    case = RewardCase(column, row, threshold, params.label)
    decision = decide(case.heterogeneity, threshold.tolerance, threshold.confidence)
    weigh, weight_rows = _weights(case)
    compared = list(_compared(case, weigh, params))
    rows = [
        AdequacyRow(statistic="verdict", baseline=decision.verdict, note=decision.sentence),
        AdequacyRow(statistic="advice", note=advice(decision, case.heterogeneity, compared)),
        AdequacyRow(statistic="tolerance", value=threshold.tolerance),
    ]
    if row["reward"] == params.target.reward:
        rows.append(AdequacyRow(statistic="target", value=1))
    if decision.needed_prompts is not None:
        rows.append(AdequacyRow(statistic="needed_prompts", value=decision.needed_prompts, at=decision.size))
    rows += [*_counts(case), *_tau(case), *_variances(case), *_judged(case.heterogeneity)]
    return [*rows, *compared, *_stability(case), *weight_rows]


def _compared(case: RewardCase, weigh: Weigh | None, params: Params) -> Iterator[AdequacyRow]:
    """Tau against every baseline, over the prompts with 2 samples or more."""
    if not np.any(case.column.sizes >= 2):
        return
    name = case.row["reward"]
    with case.column.repeated() as column:
        seed = derive_seed(params.seed, name, "adequacy")
        sample = Sample.of(
            column, weigh, case.tau, case.within, params.threshold.confidence, params.label.ties, seed
        )
        beta = params.threshold.beta if name == params.target.reward else None
        chosen = planned(params.threshold, beta, case.percentile, case.within)
        pairs = zip(chosen, seen_flips(sample, chosen), strict=True)
        for rows in column.together(lambda pair: list(baseline_rows(sample, *pair)), pairs):
            yield from rows
        yield from spread_rows(sample)


@dataclass(frozen=True)
class RewardCase:
    """One reward: its scores by prompt, its row of the thresholds table, and what is derived from both."""

    column: ScoreColumn
    row: Mapping[str, Any]
    threshold: ThresholdParams
    label: LabelParams

    @property
    def tau(self) -> float:
        """The global threshold."""
        return self.row["tau"]

    @property
    def fixed(self) -> bool:
        """Whether tau is given and not estimated from the scores."""
        return self.row["reward"] == "majority"

    @property
    def percentile(self) -> float:
        """Where tau stands among the scores."""
        return self.heterogeneity.negative if self.fixed else self.row["percentile"]

    @cached_property
    def negatives(self) -> list[PromptTally]:
        """Samples below tau, by prompt, and, if it is not fixed, below the other percentiles."""
        others = [] if self.fixed else self.column.ordered.quantiles(PERCENTILES)
        return self.column.tallies([self._below(tau) for tau in (self.tau, *others)])

    def _below(self, tau: float) -> Callable[[np.ndarray], np.ndarray]:
        return lambda scores: ~above(scores, tau, self.label.ties)

    def judged(self, negatives: PromptTally) -> Heterogeneity:
        """Where labels are negative."""
        return heterogeneity(negatives.counts, negatives.sizes, self.threshold.confidence, negatives.times)

    @cached_property
    def heterogeneity(self) -> Heterogeneity:
        """At tau."""
        return self.judged(self.negatives[0])

    @cached_property
    def components(self) -> Components | None:
        """Of the scores."""
        known = self.column
        return components(known.means, known.squares, known.sizes, self.threshold.confidence)

    @property
    def within(self) -> float:
        """Variance of scores about their prompt's mean; of all scores where there is no telling."""
        return self.components.within if self.components else self.column.variance


def _counts(case: RewardCase) -> Iterator[AdequacyRow]:
    sizes = case.column.sizes
    yield AdequacyRow(statistic="samples", value=int(sizes.sum()))
    yield AdequacyRow(statistic="prompts", value=sizes.size)
    yield AdequacyRow(statistic="repeated_prompts", value=int(np.sum(sizes >= 2)))
    yield AdequacyRow(statistic="samples_per_prompt", value=float(np.median(sizes)))


def _tau(case: RewardCase) -> Iterator[AdequacyRow]:
    row, column = case.row, case.column
    low, high = row["tau_bootstrap_low"], row["tau_bootstrap_high"]
    yield AdequacyRow(statistic="tau", value=case.tau, low=low, high=high, at=case.percentile)
    below, upto = (int(column.ordered.counts(case.tau, side)) for side in ("left", "right"))
    yield AdequacyRow(statistic="positive_fraction", value=(column.n - below) / column.n)
    yield AdequacyRow(statistic="ties", value=(upto - below) / column.n)
    if case.fixed:
        yield AdequacyRow(statistic="sampling_flip_rate", note="tau is given, not estimated")
        return
    if column.sizes.size >= 2:
        error = standard_error(*case.negatives[0])
        yield AdequacyRow(statistic="sampling_flip_rate", value=float(np.sqrt(2 / np.pi) * error))
    independent = sampling_flips(column.n, case.percentile)
    yield AdequacyRow(statistic="sampling_flip_rate_independent", value=independent)


def _variances(case: RewardCase) -> Iterator[AdequacyRow]:
    known = case.components
    if known is None:
        yield AdequacyRow(statistic="ratio", note=NO_RATIO)
        return
    yield AdequacyRow(statistic="between_variance", value=known.between)
    yield AdequacyRow(statistic="within_variance", value=known.within)
    yield AdequacyRow(statistic="ratio", value=known.ratio.value, low=known.ratio.low, high=known.ratio.high)


def _judged(found: Heterogeneity) -> Iterator[AdequacyRow]:
    if found.labels is None or found.flips is None or found.bound is None:
        yield AdequacyRow(statistic="heterogeneity", note="too few samples, or all on one side of tau")
        return
    for name, interval in (
        ("label_ratio", found.labels.ratio),
        ("heterogeneity", found.flips),
        ("heterogeneity_bound", found.bound),
    ):
        yield AdequacyRow(statistic=name, value=interval.value, low=interval.low, high=interval.high)


def _stability(case: RewardCase) -> Iterator[AdequacyRow]:
    """Labels and their heterogeneity at other percentiles; labels at two percentiles are nested, so that a flip rate
    between any two is the difference of their flip rates from one outside both."""
    at_tau, *others = case.negatives
    for percentile, negatives in zip(PERCENTILES, others, strict=False):
        moved = (
            abs(int(negatives.times @ negatives.counts) - int(at_tau.times @ at_tau.counts)) / case.column.n
        )
        yield AdequacyRow(statistic="stability", at=percentile, value=moved)
        if (flips := case.judged(negatives).flips) is not None:
            yield AdequacyRow(
                statistic="heterogeneity_at", at=percentile, value=flips.value, low=flips.low, high=flips.high
            )


def _weights(case: RewardCase) -> tuple[Weigh | None, list[AdequacyRow]]:
    """How samples are weighed about the global tau, and how unequal the weights are."""
    from tgo_pipeline.thresholds.labels import weighing

    label, column = case.label, case.column
    note = f"c {label.c:g}, scale {label.scale}"
    try:
        weigh = weighing(column, case.tau, label)
    except TgoError as error:
        return None, [AdequacyRow(statistic="weight_ess", note=str(error))]

    def sums(groups: Groups) -> tuple[float, float, float]:
        weight = weigh(groups.values)
        return float(weight.sum()), dot(weight, weight), float(weight.max())

    total, squares, most = zip(*column.each(sums), strict=True)
    ess = sum(total) ** 2 / sum(squares)
    return weigh, [
        AdequacyRow(statistic="weight_ess", value=ess / column.n, note=note),
        AdequacyRow(statistic="weight_max", value=max(most) * column.n / sum(total), note=note),
    ]


def advice(decision: Decision, found: Heterogeneity, compared: Iterable[AdequacyRow]) -> str:
    """What to do, in a sentence or two.

    Thresholds from K samples a prompt are wrong by chance, and flip a share of labels that falls as 1 / sqrt(K): what
    shuffled scores flip. They are better than tau where that is less than the flips of the true ones.
    """
    if decision.verdict == "undecided" or found.flips is None:
        return "Use threshold.baseline: global until it is decided, and sample more images per prompt, or more prompts."
    rows = Statistics(compared)
    noise, wrong = rows.first("flip_rate_null", "prompt_median").value or 0.0, found.flips.value
    by_chance = (
        f"thresholds from {found.size:g} samples a prompt flip {percent(noise)} of the labels by chance alone"
    )
    if decision.verdict == "adequate":
        why = "thresholds per prompt would change few labels" if noise < wrong else by_chance
        return f"Use threshold.baseline: global, because {why}."
    if noise < wrong:
        return f"Use threshold.baseline: prompt_mean or prompt_median, because {by_chance}, tau {percent(wrong)}."
    enough = math.ceil(found.size * (noise / wrong) ** 2)
    return (
        f"Sample about {max(enough, round(found.size) + 1)} images a prompt or more, then use threshold.baseline: "
        f"prompt_mean or prompt_median; until then {by_chance}, no less than the {percent(wrong)} of tau. If "
        "prompts have sources or categories, threshold.baseline: group needs no more samples."
    )
