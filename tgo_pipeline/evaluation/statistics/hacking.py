"""Does what a model gained on its target show in rewards that it was not tuned for?

A reward that is optimised can rise without the images getting better. Then the target rises, and rewards that took
no part (held-out ones; in the small world the oracle) do not, or fall. Gains are in standard deviations of the base
model's scores, so that they can be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tgo_pipeline.evaluation.statistics.breakdown import SampleSubset, cells
from tgo_pipeline.evaluation.statistics.intervals import (
    effective_size,
    may_decide,
    percentile_interval,
    resampled_means,
    spread,
)
from tgo_pipeline.evaluation.statistics.means import or_none
from tgo_pipeline.evaluation.statistics.scores import ALL, ModelScores
from tgo_pipeline.params import EvaluateParams
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.storage.tables import with_features
from tgo_pipeline.thresholds.adequacy.intervals import wilson_interval

HELD_OUT, MEMBER, TOGETHER = "held out", "part of the target", "held out, together"
NO_GAIN, TRANSFERS, IN_PART = "no gain", "transfers", "transfers in part"
FALLS, NOT_SEEN, UNDECIDED = "falls", "does not transfer", "undecided"
SUSPECT = (FALLS, NOT_SEEN)
"""Verdicts that say: the target rose alone."""
PART = 0.5
"""A share of the gain whose interval lies below this is only a part of it: less than half is left."""
_ENDS = ("", "_low", "_high")
_MEASURES = [f"{name}{end}" for name in ("target_gain", "gain", "share", "against") for end in _ENDS]
HACKING = with_features(
    pa.schema(
        [
            pa.field(name, pa.string(), nullable=False)
            for name in ("model", "test_set", "target", "reward", "role")
        ]
        + [pa.field(name, pa.int64(), nullable=False) for name in ("n", "n_prompts")]
        + [pa.field(name, pa.float64()) for name in _MEASURES]
        + [pa.field(name, pa.string(), nullable=False) for name in ("verdict", "note")]
    )
)


@dataclass(frozen=True)
class Roles:
    """The target, the rewards that it is made of, and all others, which are held out."""

    target: str
    members: Sequence[str]
    held_out: Sequence[str]

    @classmethod
    def of(cls, target: str, target_rewards: Sequence[str], rewards: Sequence[str]) -> Roles:
        """Among all `rewards` of an evaluation."""
        others = [name for name in rewards if name != target]
        members = [name for name in others if name in target_rewards]
        return cls(target, members, [name for name in others if name not in target_rewards])


def hacking_table(scores: ModelScores, roles: Roles | None, params: EvaluateParams, seed: int) -> pa.Table:
    """Per model but the first (the base), test set and other reward, how the target's gain shows in it; `HACKING`.

    `target_gain` and `gain` are mean differences to the base in standard deviations of the base; `share` is their
    ratio (null while the target's gain may be none), `against` the share of samples where the target rises and the
    reward falls. With several held-out rewards a row has the mean of their gains, a constant one left out. `scores`
    are aggregated already; without a target (`roles` None) the table is empty.
    """
    if roles is None:
        return HACKING.empty_table()
    resampling = derive_seed(seed, "prompts", "bootstrap")
    rows = [
        row
        for cell in cells(scores)
        if cell.category is None
        for place in range(1, len(scores.models))
        for row in _rows(cell, scores, place, roles, params, resampling)
    ]
    return pa.Table.from_pylist(rows, schema=HACKING)


def _rows(
    cell: SampleSubset, scores: ModelScores, place: int, roles: Roles, params: EvaluateParams, seed: int
) -> list[dict[str, Any]]:
    base, other = (scores.values[k][cell.chosen] for k in (0, place))
    gains = dict(zip(scores.rewards, _standardised(base, other).T, strict=True))
    varying = [name for name in roles.held_out if not np.isnan(gains[name]).all()]
    compared = [(name, HELD_OUT, gains[name]) for name in roles.held_out]
    compared += [(name, MEMBER, gains[name]) for name in roles.members]
    if len(varying) > 1:
        compared.insert(0, ("mean", TOGETHER, np.mean([gains[name] for name in varying], axis=0)))
    rows = []
    for name, role, gain in compared:
        known = ~np.isnan(gains[roles.target]) & ~np.isnan(gain)
        if not known.any():
            continue
        found = _compare(
            gains[roles.target][known], gain[known], scores.prompt_ids[cell.chosen][known], params, seed
        )
        names = {"model": scores.models[place], "test_set": cell.test_set, "target": roles.target}
        verdict = judge(found, params.confidence)
        row = {**names, "reward": name, "role": role, **found, "verdict": verdict}
        rows.append(row | {"note": explain(row)})
    return rows


def _standardised(base: NDArray, other: NDArray) -> NDArray[np.float64]:
    """Differences (n, R) in standard deviations of the base's scores; NaN for a reward that is constant there."""
    with np.errstate(invalid="ignore", divide="ignore"):
        deviations = np.array([spread(column[~np.isnan(column)]) for column in base.T])
        return np.where(deviations > 0, (other - base) / deviations, np.nan)


def _compare(
    target: NDArray, gain: NDArray, clusters: NDArray, params: EvaluateParams, seed: int
) -> dict[str, Any]:
    against = (target > 0) & (gain < 0)
    means, present = resampled_means(
        np.stack([target, gain], axis=1), clusters, resamples=params.bootstrap, seed=seed
    )
    found: dict[str, Any] = {"n": len(target), "n_prompts": int(present[0])}
    found |= {
        "target_gain": float(target.mean()),
        "gain": float(gain.mean()),
        "against": float(against.mean()),
    }
    several = present[0] > 1
    for column, name in enumerate(("target_gain", "gain")):
        low, high = percentile_interval(means[:, column], params.confidence) if several else (None, None)
        found |= {f"{name}_low": low, f"{name}_high": high}
    low, high = wilson_interval(found["against"], effective_size(against, clusters), params.confidence)
    return found | {"against_low": low, "against_high": high} | _share(found, means, params.confidence)


def _share(found: dict[str, Any], means: NDArray, confidence: float) -> dict[str, float | None]:
    """The ratio of the gains; with a gain of the target that may be zero it could be anything, and so is null."""
    if found["target_gain_low"] is None or found["target_gain_low"] <= 0:
        return dict.fromkeys(("share", "share_low", "share_high"))
    with np.errstate(divide="ignore", invalid="ignore"):  # a rare resample has no gain at all
        low, high = percentile_interval(means[:, 1] / means[:, 0], confidence)
    return {"share": or_none(found["gain"] / found["target_gain"]), "share_low": low, "share_high": high}


def suspicions(table: pa.Table) -> list[str]:
    """What to look into, over all test sets together: held-out rewards that the target's gain does not show in."""
    return [
        row["note"]
        for row in table.to_pylist()
        if row["verdict"] in SUSPECT and row["role"] != MEMBER and row["test_set"] == ALL
    ]


def judge(found: dict[str, Any], confidence: float) -> str:
    """What the intervals allow to say about a gain; nothing of so few prompts that they exclude zero by chance."""
    if not may_decide(found["n_prompts"], confidence):
        return UNDECIDED
    if found["target_gain_low"] <= 0:
        return NO_GAIN
    if found["gain_high"] < 0:
        return FALLS
    if found["gain_low"] > 0:
        return IN_PART if found["share_high"] < PART else TRANSFERS
    return NOT_SEEN if found["share_high"] < PART else UNDECIDED


def explain(row: dict[str, Any]) -> str:
    """The verdict as a sentence."""
    gained = f"{row['target_gain']:+.2f} sd"
    rose = f"{row['target']} of {row['model']} {'rose' if row['target_gain'] > 0 else 'moved'} by {gained}"
    against = f"it falls where the target rises on {row['against']:.0%} of the samples"
    subject = "the held-out rewards together" if row["role"] == TOGETHER else row["reward"]
    moved = f"{subject} by {row['gain']:+.2f} sd"
    if row["verdict"] == NO_GAIN:
        return f"{row['target']} of {row['model']} did not rise for certain ({gained}): nothing to transfer."
    if row["share"] is None:
        return f"{rose}, {moved}, on {_prompts(row['n_prompts'])}: too little to say anything."
    share = f"{row['share']:.0%} [{row['share_low']:.0%}, {row['share_high']:.0%}] of the gain"
    said = {
        FALLS: "the target rises at its cost",
        NOT_SEEN: f"the gain does not show in it ({share})",
        IN_PART: f"only a part shows in it ({share})",
        TRANSFERS: f"the gain shows in it ({share})",
        UNDECIDED: f"too uncertain to tell ({share} on {_prompts(row['n_prompts'])})",
    }[row["verdict"]]
    return f"{rose}, {moved}: {said}; {against}."


def _prompts(count: int) -> str:
    return f"{count} prompts" if count > 1 else "a single prompt"
