"""Is one tau enough here? Everything that the answer rests on, for every row of the thresholds table.

The unit is the prompt: intervals are over prompts, and a prompt with one sample counts only where it can. Flips, bounds
and distances are over the prompts with 2 samples or more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import TARGET_COMBINATIONS, LabelParams, Params, ThresholdParams
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.thresholds.adequacy import table as adequacy_table
from tgo_pipeline.thresholds.adequacy.baselines import Sample, baseline_rows, planned, spread_rows
from tgo_pipeline.thresholds.adequacy.bounds import sampling_flips
from tgo_pipeline.thresholds.adequacy.flips import above, per_group
from tgo_pipeline.thresholds.adequacy.intervals import Components, components, standard_error
from tgo_pipeline.thresholds.adequacy.table import AdequacyRow, Statistics
from tgo_pipeline.thresholds.adequacy.verdict import Decision, Heterogeneity, decide, heterogeneity, percent
from tgo_pipeline.thresholds.moments import Groups
from tgo_pipeline.thresholds.targets import target_scores

if TYPE_CHECKING:
    import polars as pl

PERCENTILES = tuple(percent / 100 for percent in range(10, 100, 10))  # other choices that are shown
METRICS = ("ratio", "heterogeneity")
NO_RATIO = "fewer than 3 prompts, no prompt with 2 scores, or all scores equal"


def adequacy(frame: pl.DataFrame, rows: Iterable[Mapping[str, Any]], params: Params) -> pa.Table:
    """The adequacy table of a scores frame and the `rows` of its thresholds table."""
    import polars as pl

    prompts = frame["prompt_id"].cast(pl.Categorical).to_physical().to_numpy().astype(np.int32)
    rows = list(rows)
    taus = {row["reward"]: row["tau"] for row in rows if row["tau"] is not None}
    found: list[tuple[str, AdequacyRow]] = []
    for row in rows:
        name = row["reward"]
        members = params.target_rewards if name in TARGET_COMBINATIONS else [name]
        if row["tau"] is None:
            nothing = AdequacyRow(
                statistic="verdict", baseline="undecided", note=f"Undecided: {row['note']}."
            )
            found.append((name, nothing))
            continue
        values = target_scores(frame, name, members, frame, taus)
        known = np.isfinite(values)
        groups = Groups.of(values, prompts) if known.all() else Groups.of(values[known], prompts[known])
        del values
        found += [(name, statistic) for statistic in judge(groups, row, params)]
    return adequacy_table.table(found)


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


def judge(groups: Groups, row: Mapping[str, Any], params: Params) -> list[AdequacyRow]:
    """Every statistic of one reward, the verdict first. `row` is its row of the thresholds table and has a tau."""
    threshold = params.threshold
    case = RewardCase(groups, row, threshold, params.label)
    decision = decide(case.heterogeneity, threshold.tolerance, threshold.confidence)
    weight, weight_rows = _weights(case)
    compared = list(_compared(case, weight, params))
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


def _compared(case: RewardCase, weight: np.ndarray | None, params: Params) -> Iterator[AdequacyRow]:
    """Tau against every baseline, over the prompts with 2 samples or more."""
    repeated = case.groups.sizes >= 2
    if not repeated.any():
        return
    groups, name = case.groups, case.row["reward"]
    if not repeated.all():
        groups = _part(case.groups, repeated)
        weight = None if weight is None else weight[case.groups.spread(repeated)]
    seed = derive_seed(params.seed, name, "adequacy")
    confidence, ties = params.threshold.confidence, params.label.ties
    sample = Sample.of(groups, weight, case.tau, case.within, confidence, ties, seed)
    beta = params.threshold.beta if name == params.target.reward else None
    for baseline in planned(params.threshold, beta, case.percentile, case.within):
        yield from baseline_rows(sample, baseline)
    yield from spread_rows(sample)


def _part(groups: Groups, which: np.ndarray) -> Groups:
    sizes = groups.sizes[which]
    return Groups(groups.values[groups.spread(which)], np.cumsum(sizes) - sizes, sizes)


@dataclass(frozen=True)
class RewardCase:
    """One reward: its scores by prompt, its row of the thresholds table, and what is derived from both."""

    groups: Groups
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

    def negatives(self, tau: float) -> np.ndarray:
        """Samples below a threshold, by prompt (G,)."""
        return per_group(self.groups, ~above(self.groups.values, tau, self.label.ties))

    @cached_property
    def heterogeneity(self) -> Heterogeneity:
        """At tau."""
        return heterogeneity(self.negatives(self.tau), self.groups.sizes, self.threshold.confidence)

    @cached_property
    def components(self) -> Components | None:
        """Of the scores."""
        means = self.groups.means()
        deviations = self.groups.values - self.groups.spread(means)
        np.square(deviations, out=deviations)
        squares = np.add.reduceat(deviations, self.groups.starts)
        return components(means, squares, self.groups.sizes, self.threshold.confidence)

    @property
    def within(self) -> float:
        """Variance of scores about their prompt's mean; of all scores where there is no telling."""
        return self.components.within if self.components else self.groups.variance()


def _counts(case: RewardCase) -> Iterator[AdequacyRow]:
    sizes = case.groups.sizes
    yield AdequacyRow(statistic="samples", value=int(sizes.sum()))
    yield AdequacyRow(statistic="prompts", value=sizes.size)
    yield AdequacyRow(statistic="repeated_prompts", value=int(np.sum(sizes >= 2)))
    yield AdequacyRow(statistic="samples_per_prompt", value=float(np.median(sizes)))


def _tau(case: RewardCase) -> Iterator[AdequacyRow]:
    row, groups, n = case.row, case.groups, case.groups.values.size
    low, high = row["tau_bootstrap_low"], row["tau_bootstrap_high"]
    yield AdequacyRow(statistic="tau", value=case.tau, low=low, high=high, at=case.percentile)
    yield AdequacyRow(statistic="positive_fraction", value=float(np.mean(groups.values >= case.tau)))
    yield AdequacyRow(statistic="ties", value=float(np.mean(groups.values == case.tau)))
    if case.fixed:
        yield AdequacyRow(statistic="sampling_flip_rate", note="tau is given, not estimated")
        return
    if groups.sizes.size >= 2:
        error = standard_error(case.negatives(case.tau), groups.sizes)
        yield AdequacyRow(statistic="sampling_flip_rate", value=float(np.sqrt(2 / np.pi) * error))
    yield AdequacyRow(statistic="sampling_flip_rate_independent", value=sampling_flips(n, case.percentile))


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
    if case.fixed:
        return
    taus = np.quantile(case.groups.values, PERCENTILES).tolist()
    for percentile, tau in zip(PERCENTILES, taus, strict=True):
        negatives = case.negatives(tau)
        moved = abs(negatives.sum() - case.heterogeneity.negative * case.groups.values.size)
        yield AdequacyRow(statistic="stability", at=percentile, value=float(moved / case.groups.values.size))
        flips = heterogeneity(negatives, case.groups.sizes, case.threshold.confidence).flips
        if flips is not None:
            yield AdequacyRow(
                statistic="heterogeneity_at", at=percentile, value=flips.value, low=flips.low, high=flips.high
            )


def _weights(case: RewardCase) -> tuple[np.ndarray | None, list[AdequacyRow]]:
    """The weight of every sample about the global tau, and how unequal they are."""
    from tgo_pipeline.thresholds.labels import effective_sample_size, weights

    label, values = case.label, case.groups.values
    note = f"c {label.c:g}, scale {label.scale}"
    try:
        weight = weights(values, case.tau, label.c, label.scale)
    except TgoError as error:
        return None, [AdequacyRow(statistic="weight_ess", note=str(error))]
    share = effective_sample_size(weight) / weight.size
    return weight, [
        AdequacyRow(statistic="weight_ess", value=share, note=note),
        AdequacyRow(statistic="weight_max", value=float(weight.max() / weight.mean()), note=note),
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
