"""The table of an evaluation: per test set and reward, means, paired difference and win rate with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.statistics.intervals import (
    bootstrap_means,
    compare_pairs,
    effective_size,
    spread,
)
from tgo_pipeline.evaluation.statistics.scores import ALL, PairedScores
from tgo_pipeline.params import EvaluateParams
from tgo_pipeline.rendering.sheets import written
from tgo_pipeline.rewards.toys import ShownNames
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.storage.tables import with_features
from tgo_pipeline.thresholds.adequacy.intervals import wilson_interval

_MEASURES = [
    "base_mean",
    "tuned_mean",
    "base_median",
    "tuned_median",
    "base_std",
    "difference",
    "difference_low",
    "difference_high",
    "effect",
]
_RATES = [
    "win_rate",
    "win_rate_low",
    "win_rate_high",
    "win_tie_rate",
    "win_tie_rate_low",
    "win_tie_rate_high",
]
EVALUATION = with_features(
    pa.schema(
        [pa.field(name, pa.string(), nullable=False) for name in ("test_set", "reward")]
        + [pa.field(name, pa.int64(), nullable=False) for name in ("n", "n_prompts", "n_excluded")]
        + [pa.field(name, pa.float64()) for name in _MEASURES]
        + [pa.field(name, pa.int64(), nullable=False) for name in ("wins", "ties", "losses")]
        + [pa.field(name, pa.float64()) for name in _RATES]
        + [pa.field("is_target", pa.bool_(), nullable=False)]
    )
)


def evaluation_table(
    pairs: PairedScores, target: str | None, params: EvaluateParams, seed: int = 0
) -> pa.Table:
    """One row per test set and reward, the set "all" (everything together) first; schema `EVALUATION`.

    A win is strict; `win_rate` is wins / n with a Wilson interval on the effective number of independent pairs,
    `win_tie_rate` counts a tie as half a win. `effect` is the difference in standard deviations of the base model.
    Differences and `win_tie_rate` have paired bootstrap intervals over prompts: null for a single prompt. Of several
    trainings all intervals, that of `win_rate` too, are of the bootstrap that draws both trainings and prompts. Without
    a target (None) no row is one. Raises `TgoError` if a reward has no pair in a test set.
    """
    sets = dict.fromkeys(pairs.test_sets.tolist())
    if ALL in sets:
        raise TgoError(f"a test set is named {ALL!r}, which means all of them together: rename it.")
    resampling = derive_seed(seed, "prompts", "bootstrap")
    rows = _rows(pairs, ALL, np.ones(len(pairs.sample_ids), dtype=bool), target, params, resampling)
    for name in sets:
        rows += _rows(pairs, name, pairs.test_sets == name, target, params, resampling)
    return pa.Table.from_pylist(rows, schema=EVALUATION)


def _rows(
    pairs: PairedScores,
    name: str,
    chosen: NDArray[np.bool_],
    target: str | None,
    params: EvaluateParams,
    seed: int,
) -> list[dict[str, Any]]:
    base, tuned, clusters = pairs.base[chosen], pairs.tuned[chosen], pairs.prompt_ids[chosen]
    complete = pairs.complete()[chosen]
    require_pairs(complete, name, pairs.rewards)
    trainings = None if pairs.trainings is None else pairs.trainings[chosen]
    intervals = _bootstrap(base, tuned, clusters, trainings, params, seed)
    rows = []
    for index, reward in enumerate(pairs.rewards):
        kept = complete[:, index]
        sides = base[kept, index], tuned[kept, index]
        rows.append(
            {"test_set": name, "reward": reward, "is_target": reward == target}
            | {"n_excluded": int((~kept).sum())}
            | _measures(*sides)
            | _rates(*sides, clusters[kept], params.confidence)
            | {column: _or_none(values[index]) for column, values in intervals.items()}
        )
    return rows


def require_pairs(complete: NDArray[np.bool_], name: str, rewards: Sequence[str]) -> None:
    """Raise `TgoError` if a reward has no complete sample; `complete` (N, R) is of the test set `name`."""
    for reward, count in zip(rewards, complete.sum(axis=0), strict=True):
        if not count:
            raise TgoError(
                f"test set {name!r}: no sample has a score of {reward} on all sides (an aggregate has one only where "
                "all images of the prompt have); the column `error` of the score shards in data/evaluation says why."
            )


def _bootstrap(
    base: NDArray,
    tuned: NDArray,
    clusters: NDArray,
    trainings: NDArray | None,
    params: EvaluateParams,
    seed: int,
) -> dict[str, NDArray[np.float64]]:
    """The bootstrap intervals of every reward of one test set, from the same resamples."""
    wins, ties, losses = compare_pairs(base, tuned)
    known = wins | ties | losses
    measured = {"difference": tuned - base, "win_tie_rate": np.where(known, wins + 0.5 * ties, np.nan)}
    if trainings is not None and len(np.unique(trainings)) > 1:  # Wilson's interval knows of prompts alone
        measured["win_rate"] = np.where(known, wins, np.nan)
    ends = bootstrap_means(
        np.concatenate(list(measured.values()), axis=1),
        clusters,
        resamples=params.bootstrap,
        confidence=params.confidence,
        seed=seed,
        trainings=trainings,
    )
    return {
        f"{name}_{end}": values
        for end, both in zip(("low", "high"), ends, strict=True)
        for name, values in zip(measured, np.split(both, len(measured)), strict=True)
    }


def _measures(base: NDArray, tuned: NDArray) -> dict[str, float | None]:
    base_std = spread(base)
    difference = float((tuned - base).mean())
    return {
        "base_mean": float(base.mean()),
        "tuned_mean": float(tuned.mean()),
        "base_median": float(np.median(base)),
        "tuned_median": float(np.median(tuned)),
        "base_std": base_std,
        "difference": difference,
        "effect": difference / base_std if base_std else None,
    }


def _rates(base: NDArray, tuned: NDArray, clusters: NDArray, confidence: float) -> dict[str, float]:
    outcomes = compare_pairs(base, tuned)
    wins, ties, losses = (int(outcome.sum()) for outcome in outcomes)
    rate = wins / len(base)
    low, high = wilson_interval(rate, effective_size(outcomes[0], clusters), confidence)
    return {
        "n": len(base),
        "n_prompts": len(np.unique(clusters)),
        "wins": wins,
        "ties": ties,
        "losses": losses,
        "win_rate": rate,
        "win_rate_low": low,
        "win_rate_high": high,
        "win_tie_rate": (wins + ties / 2) / len(base),
    }


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else float(value)


def metrics(table: pa.Table, shown: Sequence[str]) -> dict[str, dict[str, dict[str, float | None]]]:
    """What fits a metrics file: per test set the target (under the key "target") and the rewards in `shown`.

    Without a target every reward is there.
    """
    keys = ("difference", "difference_low", "difference_high", "win_rate", "win_rate_low", "win_rate_high")
    nested: dict[str, dict[str, dict[str, float | None]]] = {}
    everything = not any(table["is_target"].to_pylist())
    for row in table.to_pylist():
        values = {key: None if row[key] is None else round(row[key], 6) for key in keys}
        values |= {key: row[key] for key in ("ties", "n", "n_excluded")}
        rewards = nested.setdefault(row["test_set"], {})
        if row["is_target"]:
            rewards["target"] = values
        if everything or row["reward"] in shown:
            rewards[row["reward"]] = values
    return nested


def win_rates_csv(table: pa.Table, shown: ShownNames) -> str:
    """The win rates as csv, one line per test set and reward, for `dvc plots` (template .dvc/plots/win_rates.json)."""
    keys = [
        "test_set",
        "reward",
        "win_rate",
        "win_rate_low",
        "win_rate_high",
        "difference",
        "effect",
        "is_target",
    ]
    return written(keys, ([row[key] for key in keys] for row in shown.rows(table.to_pylist(), "reward")))
