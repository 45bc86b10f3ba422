"""The baselines table: what the target score looks like in every prompt, or in every group."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.storage.tables import with_features
from tgo_pipeline.thresholds import baselines
from tgo_pipeline.thresholds.estimate import bootstrap_interval, order_statistic_interval
from tgo_pipeline.thresholds.groups import Members
from tgo_pipeline.thresholds.moments import Groups
from tgo_pipeline.thresholds.targets import mid_ranks

if TYPE_CHECKING:
    from tgo_pipeline.params import ThresholdParams

_INTERVALS = ("tau_low", "tau_high", "tau_bootstrap_low", "tau_bootstrap_high")
BASELINES = with_features(
    pa.schema(
        [
            pa.field("reward", pa.string(), nullable=False),
            pa.field("level", pa.string(), nullable=False),
            pa.field("key", pa.string(), nullable=False),
            *(pa.field(name, pa.int64(), nullable=False) for name in ("n", "n_prompts", "n_distinct")),
            *(pa.field(name, pa.float64()) for name in ("mean", "median", "std", "tau", *_INTERVALS)),
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


def baseline_table(
    name: str,
    values: np.ndarray,
    prompts: np.ndarray,
    members: Members,
    params: ThresholdParams,
    *,
    tau: float,
    seed: int,
) -> pa.Table:
    """The table of finite target scores (N,) named `name`, with their prompts and `members.numbers[0]`, both (N,)."""
    owners = members.numbers[0]
    inside = owners != baselines.NOWHERE
    values, prompts, owners = values[inside], prompts[inside], owners[inside]
    groups, order = Groups.ordered(values, owners)
    numbers = owners[order[groups.starts]]
    repeated = groups.sizes >= 2
    columns: dict[str, Any] = {
        "reward": pa.repeat(name, numbers.size),
        "level": pa.repeat(members.level, numbers.size),
        "key": members.names.gather(numbers).to_arrow().cast(pa.string()),
        "n": groups.sizes,
        "n_prompts": _prompts_of(groups, prompts[order]) if params.group else np.ones(numbers.size, np.int64),
        "n_distinct": np.add.reduceat(_is_new(groups), groups.starts),
        "mean": groups.means(),
        "median": groups.medians(),
        "std": _known(_deviations(groups), repeated),
        "tau": baselines.percentiles(groups, params.percentile),
        **dict.fromkeys(_INTERVALS, pa.nulls(numbers.size, pa.float64())),
        **_soft_columns(groups, params, repeated),
        **_rule(groups, params, tau),
    }
    if params.group is not None:
        columns |= _intervals(groups, prompts[order], columns["key"], params, seed)
    return pa.table([columns[field.name] for field in BASELINES], schema=BASELINES)


def _known(values: np.ndarray, known: np.ndarray) -> pa.Array:
    return pa.array(values, pa.float64(), mask=~known)


def _is_new(groups: Groups) -> np.ndarray:
    """1 for each score (N,) that differs from the one before it in its group."""
    new = np.diff(groups.values, prepend=np.nan) != 0
    new[groups.starts] = True
    return new.astype(np.int64)


def _prompts_of(groups: Groups, prompts: np.ndarray) -> np.ndarray:
    """How many prompts each group (G,) has; `prompts` (N,) in the order of the groups."""
    by_prompt = np.lexsort((prompts, groups.spread(np.arange(groups.sizes.size))))
    new = np.diff(prompts[by_prompt], prepend=-1) != 0
    new[groups.starts] = True
    return np.add.reduceat(new.astype(np.int64), groups.starts)


def _deviations(groups: Groups) -> np.ndarray:
    """Standard deviation of each group (G,), n - 1 in the denominator."""
    squares = (groups.values - groups.spread(groups.means())) ** 2
    return np.sqrt(np.add.reduceat(squares, groups.starts) / np.maximum(groups.sizes - 1, 1))


def _soft_columns(groups: Groups, params: ThresholdParams, repeated: np.ndarray) -> dict[str, pa.Array]:
    if params.beta is None or params.baseline == "prompt_quantile":
        return dict.fromkeys(("soft", "soft_jackknife", "ess"), pa.nulls(groups.sizes.size, pa.float64()))
    return {
        "soft": pa.array(baselines.soft(groups, params.beta)),
        "soft_jackknife": _known(baselines.soft_jackknife(groups, params.beta), repeated),
        "ess": pa.array(baselines.soft_ess(groups, params.beta)),
    }


def _rule(groups: Groups, params: ThresholdParams, tau: float) -> dict[str, Any]:
    """What the samples of each group are compared with, and how many are at or above it."""
    measured, count = groups.values, groups.sizes.size
    enough = groups.sizes >= baselines.least_size(params, is_own=params.source == "dataset")
    if params.baseline == "prompt_quantile" and params.beta is not None:
        tau = baselines.tau_q(params.beta)
        among_all = mid_ranks(groups.values, np.sort(groups.values))
        measured = np.where(groups.spread(enough), baselines.quantiles(groups), among_all)
        baseline = np.full(count, tau)
    elif params.baseline == "global":
        baseline, enough = np.full(count, tau), np.ones(count, bool)
    else:
        baseline = baselines.per_group(groups, params)
    above = measured >= groups.spread(np.where(enough, baseline, tau))
    return {
        "baseline": _known(baseline, enough),
        "positive": np.add.reduceat(above.astype(np.int64), groups.starts),
    }


def _intervals(
    groups: Groups, prompts: np.ndarray, names: pa.Array, params: ThresholdParams, seed: int
) -> dict[str, pa.Array]:
    """Of each group's tau: from order statistics, and from a bootstrap of its prompts."""
    found = []
    for start, size, name in zip(
        groups.starts.tolist(), groups.sizes.tolist(), names.to_pylist(), strict=True
    ):
        part = slice(start, start + size)
        _, codes = np.unique(prompts[part], return_inverse=True)
        exact = order_statistic_interval(groups.values[part], params.percentile, params.confidence)
        drawn = bootstrap_interval(
            groups.values[part],
            codes,
            params.percentile,
            confidence=params.confidence,
            resamples=params.bootstrap,
            seed=derive_seed(seed, name, "group threshold bootstrap"),
        )
        found.append([math.nan if end is None else end for end in (*exact, *drawn)])
    ends = np.array(found).T
    return {
        name: pa.array(end, pa.float64(), mask=np.isnan(end))
        for name, end in zip(_INTERVALS, ends, strict=True)
    }
