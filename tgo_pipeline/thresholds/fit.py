"""Fit one row of the thresholds table per reward, and one for a combined target."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tgo_pipeline.errors import TgoError
from tgo_pipeline.executors.runtime import share_of_cores
from tgo_pipeline.params import TARGET_COMBINATIONS, Params, ThresholdParams
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.storage.workspace import Workspace
from tgo_pipeline.thresholds.estimate import order_statistic_interval, prompt_interval
from tgo_pipeline.thresholds.groups import Membership
from tgo_pipeline.thresholds.moments import flip_rates, moments, variance_components
from tgo_pipeline.thresholds.streams.blocks import numbers, require_rows
from tgo_pipeline.thresholds.streams.by_prompt import Rows, RowScores
from tgo_pipeline.thresholds.streams.column import ScoreColumn
from tgo_pipeline.thresholds.table import THRESHOLDS
from tgo_pipeline.thresholds.targets import MAJORITY_TAU, ScoreUnit, combined, measures

log = logging.getLogger("tgo")
MANY_TIES = 0.01
"""Share of the scores that may equal tau before a warning says so: `label.ties` decides their labels."""
_RULE = {"baseline": "global", "group": None, "beta": None, "leave_one_out": False, "jackknife": False}
INTERVALS: Sequence[str] = ("tau_low", "tau_high", "tau_bootstrap_low", "tau_bootstrap_high")
Row = dict[str, Any]
GROUP = ""
"""What the numbers of groups are kept as, and missing scores of the target counted as; no reward has this name."""


class ScoredRewards:
    """Score shards by prompt on disk, and what is known of each reward after reading them once."""

    def __init__(self, files: Sequence[Path], params: Params, workspace: Workspace, folder: Path) -> None:
        """Read the shards into an empty folder, where columns are made, too.

        Raises `TgoError` as `Scores.read`, and if there is no row or no sample belongs to a group.
        """
        self._params, self._folder, self._numbers = params, folder, itertools.count()
        self.units = {name: ScoreUnit(name) for name in params.score.columns}
        self.nulls = dict.fromkeys([*self.units, GROUP], 0)
        self.groups = Membership(params.threshold, workspace) if params.threshold.group else None
        require_rows(files)
        (folder / "rows").mkdir()
        columns = [*self.units, *(["sample_id"] if self.groups and self.groups.key == "sample_id" else [])]
        self.rows = RowScores.read(
            files, columns, self._keep, folder / "rows", share_of_cores(params.runtime)
        )
        if self.groups:
            self.groups.require_found()

    def _keep(self, table: pa.Table) -> dict[str, np.ndarray]:
        kept = {name: numbers(table, name) for name in self.units}
        for name, values in kept.items():
            self.units[name].add(values)
            self.nulls[name] += table[name].null_count
        missing = [table[name].is_null().to_numpy() for name in self._params.target_rewards]
        self.nulls[GROUP] += int(np.any(missing, axis=0).sum())
        codes = {GROUP: self.groups.codes(table)} if self.groups else {}
        return {name: values.astype(np.float32) for name, values in kept.items()} | codes

    def column(self, name: str, taus: Mapping[str, float], group: int | None = None) -> ScoreColumn:
        """The scores of a reward, or of a combination, for which `taus` are known; those of one `group`, if given."""
        kind = np.dtype(np.float64 if name in TARGET_COMBINATIONS else np.float32)
        measure = self._measure(name, taus)

        def values(rows: Rows) -> np.ndarray:
            found = measure(rows)
            if group is not None:
                found[self.rows.numbers(rows, GROUP) != group] = np.nan
            return found

        missing = self.nulls[GROUP if name in TARGET_COMBINATIONS else name]
        return self.rows.column(name, values, kind, self._folder / f"{next(self._numbers)}.column", missing)

    def _measure(self, name: str, taus: Mapping[str, float]) -> Callable[[Rows], np.ndarray]:
        """From rows to the scores of a reward, as they were read, or of a combination."""
        if name not in TARGET_COMBINATIONS:
            return lambda rows: self.rows.numbers(rows, name)
        units = {reward: self.units[reward] for reward in self._params.target_rewards}
        measured = measures(name, units, self._ordered, taus)
        return lambda rows: combined({reward: self._read(rows, reward) for reward in measured}, measured)

    def _read(self, rows: Rows, name: str) -> np.ndarray:
        return self.rows.numbers(rows, name).astype(np.float64)

    def _ordered(self, name: str) -> np.ndarray:
        """The finite scores of a reward in order, as float32, in memory: ranks are looked up among all of them."""
        values = np.concatenate(list(self.rows.each(lambda rows: self.rows.numbers(rows, name))))
        values = values[np.isfinite(values)]
        values.sort()
        return values


def fit(
    scores: ScoredRewards,
    params: Params,
    scores_fingerprint: str,
    then: Callable[[ScoreColumn, Row], None] = lambda column, row: None,
) -> pa.Table:
    """The thresholds table of scores: a row for each reward, and one for the target if it combines several.

    `then` is called with each column, as long as it is there, and its row. Nulls and values that are not finite are
    counted and left out. A reward that the target needs must have at least 2 finite scores that are not all equal
    (`TgoError` otherwise, before anything else); any other reward then keeps a row that says so, without a tau where
    it has fewer than 2.
    """
    target, threshold = params.target.reward, params.threshold
    for unit in scores.units.values():
        if unit.name == target or unit.name in params.target_rewards:
            missing = scores.nulls[unit.name]
            _require_spread(unit, missing, scores.rows.count - unit.size - missing)
    rows: list[Row] = []
    taus: dict[str, float] = {}
    for name in [*scores.units, *([target] if target in TARGET_COMBINATIONS else ())]:
        column = scores.column(name, taus)
        if name == target:
            _require_spread(_unit(column), column.n_null, column.n_nonfinite)
        row = _row(column, threshold, params.seed, MAJORITY_TAU if name == "majority" else None)
        row |= {"source": threshold.source, "scores_fingerprint": scores_fingerprint, **_RULE}
        if name == target:
            row |= {key: getattr(threshold, key) for key in _RULE}
        if row["note"]:
            log.warning("threshold of %s: %s", name, row["note"])
        rows.append(row)
        taus[name] = row["tau"]
        then(column, row)
        column.remove()
    return pa.Table.from_pylist(rows, schema=THRESHOLDS)


def _unit(column: ScoreColumn) -> ScoreUnit:
    """What a column spreads over, as far as its ends."""
    if not column.n:
        return ScoreUnit(column.name)
    return ScoreUnit(column.name, column.n, minimum=column.ordered.minimum, maximum=column.ordered.maximum)


def _require_spread(found: ScoreUnit, n_null: int, n_nonfinite: int) -> None:
    if found.size < 2:
        raise TgoError(
            f"{found.name} has {found.size} finite scores ({n_null} null, {n_nonfinite} NaN or infinite) and the "
            "target depends on it: tau needs at least 2; look at the error column of the scores."
        )
    if found.minimum == found.maximum:
        raise TgoError(
            f"{found.name} is {found.minimum:g} for all {found.size} samples and the target depends on it: a constant "
            "score splits nothing; check how it was scored, or choose another target."
        )


def _row(column: ScoreColumn, params: ThresholdParams, seed: int, tau: float | None) -> Row:
    """A row; a given `tau` is fixed and has no interval."""
    row: Row = {
        "reward": column.name,
        "percentile": params.percentile,
        "tau": tau,
        "confidence": params.confidence,
        **dict.fromkeys(INTERVALS),
        "n": column.n,
        "n_null": column.n_null,
        "n_nonfinite": column.n_nonfinite,
        "n_prompts": column.sizes.size,
    }
    if column.n < 2:
        return row | {"note": f"no tau: {column.n} finite scores, at least 2 are needed"}
    if tau is None:
        tau = column.ordered.quantiles([params.percentile])[0]
        row |= intervals(column, params, derive_seed(seed, column.name, "threshold bootstrap"))
    between, within = variance_components(column)
    flip_mean, flip_median = flip_rates(column, tau)
    below, upto = (int(column.ordered.counts(tau, side)) for side in ("left", "right"))
    return row | {
        "tau": tau,
        **moments(column),
        "ties": upto - below,
        "positive_fraction": (column.n - below) / column.n,
        "between_prompt_variance": between,
        "within_prompt_variance": within,
        "flip_rate_prompt_mean": flip_mean,
        "flip_rate_prompt_median": flip_median,
        "note": _note(column, tau, upto - below),
    }


def intervals(column: ScoreColumn, params: ThresholdParams, seed: int) -> dict[str, float | None]:
    """Both intervals of a column's tau."""
    low, high = order_statistic_interval(column.ordered, params.percentile, params.confidence)
    prompts_low, prompts_high = prompt_interval(
        column, params.percentile, confidence=params.confidence, resamples=params.bootstrap, seed=seed
    )
    return dict(zip(INTERVALS, (low, high, prompts_low, prompts_high), strict=True))


def _note(column: ScoreColumn, tau: float, ties: int) -> str | None:
    least, most = column.ordered.minimum, column.ordered.maximum
    if least == most:
        return f"constant: every score is {tau:g}"
    if least >= tau:
        return f"every score is at or above tau = {tau:g}: nothing is negative unless label.ties is negative"
    if most <= tau:
        return f"no score is above tau = {tau:g}: nothing is positive unless label.ties is positive"
    if ties > max(1, MANY_TIES * column.n):
        return f"{ties} of {column.n} scores equal tau = {tau:g}: label.ties decides where they go"
    return None
