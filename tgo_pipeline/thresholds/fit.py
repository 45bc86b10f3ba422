"""Fit one row of the thresholds table per reward, and one for a combined target."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import TARGET_COMBINATIONS, ThresholdParams
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.thresholds.estimate import bootstrap_interval, order_statistic_interval, percentile
from tgo_pipeline.thresholds.moments import Groups, flip_rates, moments, variance_components
from tgo_pipeline.thresholds.table import THRESHOLDS
from tgo_pipeline.thresholds.targets import MAJORITY_TAU, column, target_scores

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger("tgo")
MANY_TIES = 0.01
"""Share of the scores that may equal tau before a warning says so: `label.ties` decides their labels."""
_RULE = {"baseline": "global", "group": None, "beta": None, "leave_one_out": False, "jackknife": False}


@dataclass(frozen=True)
class PromptScores:
    """One score per sample with its prompt: what is finite, and how many are not."""

    name: str
    values: np.ndarray
    prompts: np.ndarray
    n_null: int
    n_nonfinite: int

    @classmethod
    def of(cls, name: str, values: np.ndarray, null: np.ndarray, prompts: np.ndarray) -> PromptScores:
        """Keep the finite `values` (N,); `null` (N,) tells a missing score from a NaN or infinite one."""
        usable = np.isfinite(values)
        nonfinite = int(np.sum(~usable & ~null))
        return cls(name, values[usable], _codes(prompts[usable]), int(null.sum()), nonfinite)


def _codes(prompts: np.ndarray) -> np.ndarray:
    return np.unique(prompts, return_inverse=True)[1]


def fit(
    frame: pl.DataFrame,
    *,
    rewards: Sequence[str],
    target: str,
    target_rewards: Sequence[str],
    params: ThresholdParams,
    seed: int,
    scores_fingerprint: str,
) -> pa.Table:
    """The thresholds table of a scores frame (`prompt_id` and one column per reward).

    `rewards` get a row each, `target` one more if it is a combination of `target_rewards`. Nulls and values that are
    not finite are counted and left out. A reward that the target needs must have at least 2 finite scores that are
    not all equal (`TgoError` otherwise); any other reward then keeps a row that says so, without a tau where it has
    fewer than 2. A missing column raises `TgoError` in any case.
    """
    prompts = frame["prompt_id"].rank("dense").to_numpy().astype(np.int64)
    members = [PromptScores.of(name, column(frame, name), _null(frame, [name]), prompts) for name in rewards]
    for scores in members:
        if scores.name == target or scores.name in target_rewards:
            _require_spread(scores)
    rows = [_row(scores, params, seed) for scores in members]
    if target in TARGET_COMBINATIONS:
        taus = {row["reward"]: row["tau"] for row in rows}
        values = target_scores(frame, target, target_rewards, frame, taus)
        combined = PromptScores.of(target, values, _null(frame, target_rewards), prompts)
        _require_spread(combined)
        rows.append(_row(combined, params, seed, tau=MAJORITY_TAU if target == "majority" else None))
    for row in rows:
        row |= {"source": params.source, "scores_fingerprint": scores_fingerprint, **_RULE}
        if row["reward"] == target:
            row |= {name: getattr(params, name) for name in _RULE}
        if row["note"]:
            log.warning("threshold of %s: %s", row["reward"], row["note"])
    return pa.Table.from_pylist(rows, schema=THRESHOLDS)


def _null(frame: pl.DataFrame, rewards: Sequence[str]) -> np.ndarray:
    """Which samples (N,) lack a score of one of the rewards."""
    return np.any([frame[name].is_null().to_numpy() for name in rewards], axis=0)


def _require_spread(scores: PromptScores) -> None:
    n = scores.values.size
    if n < 2:
        raise TgoError(
            f"{scores.name} has {n} finite scores ({scores.n_null} null, {scores.n_nonfinite} NaN or infinite) and the "
            "target depends on it: tau needs at least 2; look at the error column of the scores."
        )
    if scores.values.min() == scores.values.max():
        raise TgoError(
            f"{scores.name} is {scores.values[0]:g} for all {n} samples and the target depends on it: a constant score "
            "splits nothing; check how it was scored, or choose another target."
        )


def _row(
    scores: PromptScores, params: ThresholdParams, seed: int, tau: float | None = None
) -> dict[str, Any]:
    """A row; a given `tau` is fixed and has no interval."""
    values = scores.values
    row: dict[str, Any] = {
        "reward": scores.name,
        "percentile": params.percentile,
        "tau": tau,
        "confidence": params.confidence,
        "n": values.size,
        "n_null": scores.n_null,
        "n_nonfinite": scores.n_nonfinite,
        "n_prompts": np.unique(scores.prompts).size,
    }
    if values.size < 2:
        return row | {"note": f"no tau: {values.size} finite scores, at least 2 are needed"}
    if tau is None:
        tau = percentile(values, params.percentile)
        row |= _intervals(scores, params, seed)
    groups = Groups.of(values, scores.prompts)
    between, within = variance_components(groups)
    flip_mean, flip_median = flip_rates(groups, tau)
    return row | {
        "tau": tau,
        **moments(values),
        "ties": int(np.sum(values == tau)),
        "positive_fraction": float(np.mean(values >= tau)),
        "between_prompt_variance": between,
        "within_prompt_variance": within,
        "flip_rate_prompt_mean": flip_mean,
        "flip_rate_prompt_median": flip_median,
        "note": _note(values, tau),
    }


def _intervals(scores: PromptScores, params: ThresholdParams, seed: int) -> dict[str, float | None]:
    low, high = order_statistic_interval(np.sort(scores.values), params.percentile, params.confidence)
    bootstrap_low, bootstrap_high = bootstrap_interval(
        scores.values,
        scores.prompts,
        params.percentile,
        confidence=params.confidence,
        resamples=params.bootstrap,
        seed=derive_seed(seed, scores.name, "threshold bootstrap"),
    )
    return {
        "tau_low": low,
        "tau_high": high,
        "tau_bootstrap_low": bootstrap_low,
        "tau_bootstrap_high": bootstrap_high,
    }


def _note(values: np.ndarray, tau: float) -> str | None:
    if values.min() == values.max():
        return f"constant: every score is {tau:g}"
    if values.min() >= tau:
        return f"every score is at or above tau = {tau:g}: nothing is negative unless label.ties is negative"
    if values.max() <= tau:
        return f"no score is above tau = {tau:g}: nothing is positive unless label.ties is positive"
    ties = int(np.sum(values == tau))
    if ties > max(1, MANY_TIES * values.size):
        return f"{ties} of {values.size} scores equal tau = {tau:g}: label.ties decides where they go"
    return None
