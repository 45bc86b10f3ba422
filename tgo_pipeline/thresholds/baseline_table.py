"""The baselines table: what the target score looks like in every prompt, or in every group."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tgo_pipeline.params import Params, ThresholdParams
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.storage.tables import with_features
from tgo_pipeline.thresholds import baselines
from tgo_pipeline.thresholds.fit import INTERVALS, ScoredRewards, intervals
from tgo_pipeline.thresholds.streams.by_prompt import Rows
from tgo_pipeline.thresholds.streams.column import ColumnBlock, ScoreColumn
from tgo_pipeline.thresholds.streams.groups import Groups
from tgo_pipeline.thresholds.streams.sorted_parts import SortedParts

NO_ENDS = dict.fromkeys(INTERVALS)
BASELINES = with_features(
    pa.schema(
        [
            pa.field("reward", pa.string(), nullable=False),
            pa.field("level", pa.string(), nullable=False),
            pa.field("key", pa.string(), nullable=False),
            *(pa.field(name, pa.int64(), nullable=False) for name in ("n", "n_prompts", "n_distinct")),
            *(pa.field(name, pa.float64()) for name in ("mean", "median", "std", "tau", *NO_ENDS)),
            *(pa.field(name, pa.float64()) for name in ("soft", "soft_jackknife", "ess", "baseline")),
            pa.field("positive", pa.int64(), nullable=False),
        ]
    )
)
"""One row per prompt (`level` prompt, `key` its id) or group (`level` source, category or model, `key` its name).

`n` finite target scores of `n_prompts` prompts, `n_distinct` different ones: what a quantile can distinguish. `tau` is
their percentile, with intervals for groups. `soft`, its jackknife and its effective sample size `ess` are null without
a beta in score units. `baseline` is what a sample is compared with, in units of `threshold.baseline` (null: too few
scores, the global tau holds), here with all samples counted: `leave_one_out` gives each one its own. `positive` counts
the scores at or above it.
"""


def baseline_tables(
    scores: ScoredRewards, column: ScoreColumn, params: Params, tau: float, taus: Mapping[str, float]
) -> Iterator[pa.Table]:
    """The table of the target's `column` in parts: some prompts in order of their ids, or one group.

    All scores of a group are in memory at a time. `taus` are those of the rewards that the target combines.
    """
    threshold = params.threshold
    if scores.groups is None:
        rule = Rule(threshold, tau, column.ordered)

        def of_prompts(pair: tuple[ColumnBlock, Rows]) -> pa.Table:
            block, rows = pair
            ids = scores.rows.ids(rows).filter(pa.array(block.kept))
            places = [np.arange(len(ids))[part.places] for part in block.parts]
            tables = [
                _table(
                    column.name,
                    "prompt",
                    ids.take(own),
                    column.groups(part),
                    rule,
                    np.ones(own.size, np.int64),
                )
                for part, own in zip(block.parts, places, strict=True)
            ]
            return pa.concat_tables(tables).take(np.argsort(np.concatenate(places)))

        pairs = zip(column.blocks, scores.rows.parts(), strict=True)
        yield from column.together(of_prompts, (pair for pair in pairs if pair[0].parts))
        return
    for code, name in enumerate(scores.groups.names):
        own = scores.column(column.name, taus, code)
        if own.n:
            whole = Groups(own.ordered.whole(), np.zeros(1, np.int64), np.array([own.n]))
            ends = intervals(own, threshold, derive_seed(params.seed, name, "group threshold bootstrap"))
            rule, count = Rule(threshold, tau, own.ordered), np.array([own.sizes.size])
            yield _table(column.name, scores.groups.level, pa.array([name]), whole, rule, count, ends)
        own.remove()


@dataclass(frozen=True)
class Rule:
    """What scores are compared with, and what of the whole column it takes."""

    params: ThresholdParams
    tau: float
    whole: SortedParts
    """All scores: quantiles among them are those of a sample that is alone in its prompt."""

    def columns(self, groups: Groups) -> dict[str, Any]:
        """What the samples of each group are compared with, and how many are at or above it."""
        params, tau, measured, count = self.params, self.tau, groups.values, groups.sizes.size
        enough = groups.sizes >= baselines.least_size(params, is_own=params.source == "dataset")
        if params.baseline == "prompt_quantile" and params.beta is not None:
            tau = baselines.tau_q(params.beta)
            measured, alone = baselines.quantiles(groups), ~groups.spread(enough)
            if alone.any():
                measured[alone] = self.whole.mid_ranks(groups.values[alone])
            baseline = np.full(count, tau)
        elif params.baseline == "global":
            baseline, enough = np.full(count, tau), np.ones(count, bool)
        else:
            baseline = baselines.per_group(groups, params)
        above = measured >= groups.spread(np.where(enough, baseline, tau))
        return {"baseline": _known(baseline, enough), "positive": groups.count(above)}


def _table(
    name: str,
    level: str,
    keys: pa.Array,
    groups: Groups,
    rule: Rule,
    n_prompts: np.ndarray,
    ends: Mapping[str, float | None] = NO_ENDS,
) -> pa.Table:
    count, repeated, means = groups.sizes.size, groups.sizes >= 2, groups.means()
    columns: dict[str, Any] = {
        "reward": pa.repeat(name, count),
        "level": pa.repeat(level, count),
        "key": keys,
        "n": groups.sizes,
        "n_prompts": n_prompts,
        "n_distinct": groups.count(groups.is_new()),
        "mean": means,
        "median": groups.medians(),
        "std": _known(np.sqrt(groups.squares(means) / np.maximum(groups.sizes - 1, 1)), repeated),
        "tau": baselines.percentiles(groups, rule.params.percentile),
        **{end: pa.repeat(pa.scalar(value, pa.float64()), count) for end, value in ends.items()},
        **_soft_columns(groups, rule.params, repeated),
        **rule.columns(groups),
    }
    return pa.table([columns[field.name] for field in BASELINES], schema=BASELINES)


def _known(values: np.ndarray, known: np.ndarray) -> pa.Array:
    return pa.array(values, pa.float64(), mask=~known)


def _soft_columns(groups: Groups, params: ThresholdParams, repeated: np.ndarray) -> dict[str, pa.Array]:
    if params.beta is None or params.baseline == "prompt_quantile":
        return dict.fromkeys(("soft", "soft_jackknife", "ess"), pa.nulls(groups.sizes.size, pa.float64()))
    return {
        "soft": pa.array(baselines.soft(groups, params.beta)),
        "soft_jackknife": _known(baselines.soft_jackknife(groups, params.beta), repeated),
        "ess": pa.array(baselines.soft_ess(groups, params.beta)),
    }
