"""Every pair of models: wins, ties and losses, paired differences, and p-values corrected for their number."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tgo_pipeline.evaluation.statistics.breakdown import CELL_FIELDS, SampleSubset, cells
from tgo_pipeline.evaluation.statistics.corrections import adjust
from tgo_pipeline.evaluation.statistics.intervals import (
    bootstrap_means,
    compare_pairs,
    effective_size,
    sign_flip_test,
)
from tgo_pipeline.evaluation.statistics.means import or_none
from tgo_pipeline.evaluation.statistics.scores import ALL, ModelScores
from tgo_pipeline.params import EvaluateParams
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.storage.tables import with_features
from tgo_pipeline.thresholds.adequacy.intervals import wilson_interval

FLIPS = 19_999
"""Random sign patterns of a test: the smallest p-value is 1 / 20,000. Up to 14 prompts all patterns are counted."""
_VALUES = [
    "win_rate",
    "win_rate_low",
    "win_rate_high",
    "win_rate_bootstrap_low",
    "win_rate_bootstrap_high",
    "win_tie_rate",
    "win_tie_rate_low",
    "win_tie_rate_high",
    "difference",
    "difference_low",
    "difference_high",
    "p_value",
    "p_adjusted",
]
MATRIX = with_features(
    pa.schema(
        [
            pa.field("model_a", pa.string(), nullable=False),
            pa.field("model_b", pa.string(), nullable=False),
            *CELL_FIELDS,
            pa.field("reward", pa.string(), nullable=False),
            pa.field("is_target", pa.bool_(), nullable=False),
            pa.field("aggregate", pa.string(), nullable=False),
            *(
                pa.field(name, pa.int64(), nullable=False)
                for name in ("n", "n_prompts", "n_excluded", "wins", "ties", "losses")
            ),
            *(pa.field(name, pa.float64()) for name in _VALUES),
            pa.field("significant", pa.bool_()),
        ]
    )
)
Row = dict[str, Any]


def matrix_table(scores: ModelScores, target: str | None, params: EvaluateParams, seed: int) -> pa.Table:
    """One row per ordered pair of models, cell and reward; schema `MATRIX`. `scores` are aggregated already.

    A win is of `model_a`, strictly above `model_b` on the same sample; `difference` is the mean of a - b. Every pair
    stands in the table twice, once from each side, with mirrored numbers. `p_value` is of the sign-flip test of the
    difference with prompts as units; `p_adjusted` is corrected within a family (see `families`), and `significant`
    where it is below 1 - confidence. A pair without a common sample has nulls.
    """
    resampling = derive_seed(seed, "prompts", "bootstrap")
    flipping = derive_seed(seed, "prompts", "sign_flip")
    rows = [
        row
        for cell in cells(scores)
        for row in _cell_rows(cell, scores, target, params, resampling, flipping)
    ]
    _correct(rows, params)
    mirrored = [side for row in rows for side in (row, _mirror(row))]
    places = {name: place for place, name in enumerate(scores.models)}
    order = {name: place for place, name in enumerate(scores.rewards)}
    cell_order = {key: place for place, key in enumerate(dict.fromkeys(map(_cell_key, rows)))}
    mirrored.sort(
        key=lambda row: (
            cell_order[_cell_key(row)],
            places[row["model_a"]],
            places[row["model_b"]],
            order[row["reward"]],
        )
    )
    return pa.Table.from_pylist([_public(row) for row in mirrored], schema=MATRIX)


def _cell_key(row: Row) -> tuple[str, str | None, str | None]:
    return row["test_set"], row["grouping"], row["category"]


def _cell_rows(
    cell: SampleSubset,
    scores: ModelScores,
    target: str | None,
    params: EvaluateParams,
    resampling: int,
    flipping: int,
) -> list[Row]:
    """The rows of a cell, each pair once: the later model of `scores.models` is `model_a`."""
    values, clusters = scores.values[:, cell.chosen], scores.prompt_ids[cell.chosen]
    couples = [(b, a) for a, b in itertools.combinations(range(len(scores.models)), 2)]
    columns = [(a, b, r) for a, b in couples for r in range(len(scores.rewards))]
    one, other = (np.stack([values[c[k], :, c[2]] for c in columns], axis=1) for k in (0, 1))
    intervals = _bootstrap(one, other, clusters, params, resampling)
    p_values = sign_flip_test(one - other, clusters, flips=FLIPS, seed=flipping)
    rows = []
    for place, (a, b, r) in enumerate(columns):
        reward = scores.rewards[r]
        names = {"model_a": scores.models[a], "model_b": scores.models[b]}
        rows.append(
            {**names, **cell.names, "reward": reward, "is_target": reward == target}
            | {"aggregate": params.aggregate}
            | _rates(one[:, place], other[:, place], clusters, params.confidence)
            | {name: or_none(column[place]) for name, column in intervals.items()}
            | {"p_value": or_none(p_values[place])}
        )
    return rows


def _bootstrap(
    one: NDArray, other: NDArray, clusters: NDArray, params: EvaluateParams, seed: int
) -> dict[str, NDArray[np.float64]]:
    """Intervals of the difference, of both sides' win rates and of wins with half the ties, from the same resamples."""
    wins, ties, losses = compare_pairs(other, one)
    known = wins | ties | losses
    measured = {
        "difference": one - other,
        "win_rate_bootstrap": np.where(known, wins, np.nan),
        "loss_rate_bootstrap": np.where(known, losses, np.nan),
        "win_tie_rate": np.where(known, wins + 0.5 * ties, np.nan),
    }
    low, high = bootstrap_means(
        np.concatenate(list(measured.values()), axis=1),
        clusters,
        resamples=params.bootstrap,
        confidence=params.confidence,
        seed=seed,
    )
    ends = zip(measured, np.split(low, len(measured)), np.split(high, len(measured)), strict=True)
    return {
        f"{name}_{end}": found
        for name, *both in ends
        for end, found in zip(("low", "high"), both, strict=True)
    }


def _rates(one: NDArray, other: NDArray, clusters: NDArray, confidence: float) -> Row:
    outcomes = compare_pairs(other, one)
    known = np.logical_or.reduce(outcomes)
    wins, ties, losses = (int(outcome.sum()) for outcome in outcomes)
    n = int(known.sum())
    row: Row = {
        "n": n,
        "n_prompts": len(np.unique(clusters[known])),
        "n_excluded": len(known) - n,
        "wins": wins,
        "ties": ties,
        "losses": losses,
    }
    for name, outcome in (("win_rate", outcomes[0]), ("loss_rate", outcomes[2])):
        row |= _rate(name, outcome[known], clusters[known], confidence)
    row["win_tie_rate"] = (wins + ties / 2) / n if n else None
    row["difference"] = float((one - other)[known].mean()) if n else None
    return row


def _rate(name: str, outcome: NDArray, clusters: NDArray, confidence: float) -> Row:
    if not len(outcome):
        return dict.fromkeys((name, f"{name}_low", f"{name}_high"))
    rate = float(outcome.mean())
    low, high = wilson_interval(rate, effective_size(outcome, clusters), confidence)
    return {name: rate, f"{name}_low": low, f"{name}_high": high}


def _mirror(row: Row) -> Row:
    """The same comparison from the other model's side."""
    other = dict(row)
    other["model_a"], other["model_b"] = row["model_b"], row["model_a"]
    other["wins"], other["losses"] = row["losses"], row["wins"]
    for name in ("rate", "rate_low", "rate_high", "rate_bootstrap_low", "rate_bootstrap_high"):
        other[f"win_{name}"], other[f"loss_{name}"] = row[f"loss_{name}"], row[f"win_{name}"]
    for name, opposite in (("difference", _negated), ("win_tie_rate", _rest)):
        other[name] = opposite(row[name])
        other[f"{name}_low"], other[f"{name}_high"] = (
            opposite(row[f"{name}_high"]),
            opposite(row[f"{name}_low"]),
        )
    return other


def _negated(value: float | None) -> float | None:
    return None if value is None else 0.0 - value


def _rest(value: float | None) -> float | None:
    return None if value is None else 1.0 - value


def _public(row: Row) -> Row:
    return {name: row[name] for name in MATRIX.names}


def families(rows: Sequence[Row]) -> dict[str | None, list[list[int]]]:
    """The hypotheses of each family of tests, as the places of the rows that state them.

    One family are all pairs of models, rewards and whole test sets (with all of them together); a second one are all
    categories, a third one all challenges. Where there is one test set, it and everything together are one hypothesis.
    """
    sets = dict.fromkeys(row["test_set"] for row in rows if row["test_set"] != ALL)
    found: dict[str | None, dict[tuple, list[int]]] = defaultdict(lambda: defaultdict(list))
    for place, row in enumerate(rows):
        test_set = ALL if len(sets) == 1 and row["grouping"] is None else row["test_set"]
        models = frozenset((row["model_a"], row["model_b"]))
        hypothesis = (models, test_set, row["category"], row["reward"])
        found[row["grouping"]][hypothesis].append(place)
    return {family: list(members.values()) for family, members in found.items()}


def _correct(rows: Sequence[Row], params: EvaluateParams) -> None:
    """Write `p_adjusted` and `significant` into the rows."""
    for hypotheses in families(rows).values():
        values = np.array([rows[places[0]]["p_value"] for places in hypotheses], dtype=np.float64)
        for places, adjusted in zip(hypotheses, adjust(values, params.correction), strict=True):
            for place in places:
                rows[place]["p_adjusted"] = or_none(adjusted)
                rows[place]["significant"] = (
                    None if np.isnan(adjusted) else bool(adjusted < 1 - params.confidence)
                )
