"""The score that samples are split on: one reward, or several combined, measured against a reference set.

The reference is the set that tau was estimated from (the training scores, or the proxy set), so that a score means
the same for training samples, for the tuned model's samples and for tau.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import TARGET_COMBINATIONS, ThresholdParams
from tgo_pipeline.rewards.toys import ShownNames, meaning
from tgo_pipeline.storage.fingerprints import content_fingerprint, fingerprint
from tgo_pipeline.storage.paths import SHARD_NAME, parquet_files

if TYPE_CHECKING:
    import polars as pl
    import pyarrow as pa

MAJORITY_TAU = 0.5  # positive where at least half of the rewards say so
NEED_UNITS = ("mean_z", "mean_rank")
"""Combinations that measure every reward against its reference."""


def score_files(folder: Path) -> list[Path]:
    """The score shards of a folder in name order.

    Raises `TgoError` if there are none, or fewer than their names say there should be: tau of a part of the scores
    would look like tau.
    """
    files = parquet_files(folder)
    if not files:
        raise TgoError(
            f"{folder} holds no score shard (*.parquet): run the score stage, or name another folder."
        )
    shards = [SHARD_NAME.fullmatch(file.name) for file in files]
    for split, count in {(shard["split"], int(shard["count"])) for shard in shards if shard}:
        found = sum(shard is not None and shard["split"] == split for shard in shards)
        if found != count:
            raise TgoError(f"{folder} holds {found} of {count} {split} shards: finish the score stage first.")
    return files


def shown_names(folder: Path) -> ShownNames:
    """What people read of the columns of score shards, and of a target that combines them; plain names without any."""
    about = described(folder)
    return ShownNames.of(
        {name: facts.get("source") for name, facts in about.items()},
        {name: list(about) for name in TARGET_COMBINATIONS},
    )


def meanings(folder: Path) -> dict[str, str]:
    """What the numbers of each column of score shards mean, by its shown name; without those of an open scale."""
    about, shown = described(folder), shown_names(folder)
    return {shown(name): text for name, facts in about.items() if (text := meaning(facts))}


def described(folder: Path) -> dict[str, dict[str, Any]]:
    """What the columns of score shards are, as the score stage wrote it; empty without any."""
    from tgo_pipeline.storage.tables import read_metadata

    return read_metadata(shards[0]).get("rewards", {}) if (shards := parquet_files(folder)) else {}


def read_score_shard(file: Path, rewards: Sequence[str]) -> pa.Table:
    """`sample_id`, `prompt_id` and the reward columns of one shard. Raises `TgoError` for a wrong schema."""
    from tgo_pipeline.storage.tables import check_schema, read_table, scores_schema

    columns = ["sample_id", "prompt_id", *rewards]
    table = read_table(file)
    check_schema(table.schema, scores_schema(rewards), file, columns)
    for name in ("sample_id", "prompt_id"):
        if table[name].null_count:
            raise TgoError(
                f"{file}: {table[name].null_count} rows have no {name}: run the score stage again."
            )
    return table.select(columns)


def read_scores(folder: Path, rewards: Sequence[str]) -> pl.DataFrame:
    """All score shards of a folder in name order. Raises `TgoError` for no shards, no rows or a wrong schema."""
    import polars as pl
    import pyarrow as pa

    table = pa.concat_tables([read_score_shard(file, rewards) for file in score_files(folder)])
    if not table.num_rows:
        raise TgoError(f"{folder} holds score shards without a single row: generate and score images first.")
    return pl.DataFrame(table)


def scores_fingerprint(folder: Path) -> str:
    """What a folder of score shards holds: their stored fingerprints, or their content where they carry none."""
    from tgo_pipeline.storage.tables import read_metadata

    parts = [
        (file.name, read_metadata(file).get("fingerprint") or content_fingerprint(file))
        for file in score_files(folder)
    ]
    return fingerprint(shards=parts)


def reference_folder(params: ThresholdParams, scores: Path) -> Path:
    """Where tau and the units of a combined target come from: the scores themselves, or the proxy folder.

    Raises `TgoError` if the proxy folder does not exist.
    """
    if params.source == "dataset" or params.proxy is None:
        return scores
    proxy = Path(params.proxy)
    if not proxy.is_dir():
        raise TgoError(
            f"threshold.proxy is {params.proxy!r}, which is not a folder: name a folder of score shards."
        )
    return proxy


def column(frame: pl.DataFrame, reward: str) -> np.ndarray:
    """One reward as float64 (N,), null as NaN. Raises `TgoError` if the frame lacks it."""
    if reward not in frame.columns:
        found = ", ".join(name for name in frame.columns if name not in ("sample_id", "prompt_id", "error"))
        raise TgoError(
            f"the scores have no reward {reward!r}; they have {found}: score it, or name another one."
        )
    return frame[reward].to_numpy().astype(np.float64)


def target_scores(
    frame: pl.DataFrame,
    target: str,
    rewards: Sequence[str],
    reference: pl.DataFrame,
    taus: Mapping[str, float] | None = None,
) -> np.ndarray:
    """The target score of every row of `frame`, float64 (N,), NaN where one of its rewards is null or not finite.

    `target` and `rewards` are `params.target.reward` and `params.target_rewards`; `reference` is the frame that tau
    was estimated from; `taus` (reward to tau) is needed for `majority` alone. Raises `TgoError`.
    """
    if target not in TARGET_COMBINATIONS:
        values = column(frame, target)
        return np.where(np.isfinite(values), values, np.nan)
    members = {name: column(frame, name) for name in rewards}
    return combine(members, target, {name: column(reference, name) for name in rewards}, taus)


@dataclass
class ScoreUnit:
    """What scores of one reward are measured in: how many finite ones there are, and how they spread."""

    name: str
    size: int = 0
    mean: float = 0.0
    squares: float = 0.0
    """Sum of squared deviations from the mean."""
    minimum: float = math.inf
    maximum: float = -math.inf

    def add(self, values: np.ndarray) -> None:
        """Count the finite ones of `values` (N,) in; the sums are merged as Chan, Golub & LeVeque (1979) do."""
        known = finite(values)
        if not known.size:
            return
        mean = float(known.mean())
        squares = float(np.sum((known - mean) ** 2))
        size, apart = self.size + known.size, mean - self.mean
        self.squares += squares + (apart**2 * self.size * known.size / size if self.size else 0.0)
        self.mean = mean if not self.size else self.mean + apart * known.size / size
        self.size = size
        self.minimum = min(self.minimum, float(known.min()))
        self.maximum = max(self.maximum, float(known.max()))

    @property
    def deviation(self) -> float:
        """Standard deviation with n - 1 in the denominator. Raises `TgoError` if every score is the same."""
        if self.minimum == self.maximum:
            raise TgoError(
                f"{self.name} is {self.minimum:g} for all {self.size} samples: a constant score has no standard "
                "deviation and ranks nothing; check how it was scored, or leave it out."
            )
        return math.sqrt(self.squares / (self.size - 1))


def combine(
    scores: Mapping[str, np.ndarray],
    kind: str,
    reference: Mapping[str, np.ndarray],
    taus: Mapping[str, float] | None = None,
) -> np.ndarray:
    """Combine several rewards, each (N,), into one float64 score (N,); NaN where any of them is not finite.

    `mean_z`: mean of (s - mean) / std, both over the finite values of the reward's `reference`.
    `mean_rank`: mean of the mid-rank distribution function of the reference, from 0 to 1.
    `majority`: share of the rewards at or above their tau; its own tau is 0.5.
    Raises `TgoError` for an unknown kind, no rewards, or a reward that cannot be combined this way.
    """
    units = {name: ScoreUnit(name) for name in scores}
    if kind in NEED_UNITS:
        for name, unit in units.items():
            unit.add(reference[name])
    return combined(scores, measures(kind, units, lambda name: np.sort(finite(reference[name])), taus))


Measure = Callable[[np.ndarray], np.ndarray]
"""From scores of a reward (N,), NaN for none, to what is averaged."""


def combined(scores: Mapping[str, np.ndarray], measured: Mapping[str, Measure]) -> np.ndarray:
    """The mean (N,) of several measured rewards, NaN where any of them is not finite."""
    complete = np.all([np.isfinite(values) for values in scores.values()], axis=0)
    parts = [measured[name](np.where(np.isfinite(values), values, np.nan)) for name, values in scores.items()]
    return np.where(complete, np.mean(parts, axis=0), np.nan)


def measures(
    kind: str,
    units: Mapping[str, ScoreUnit],
    ordered: Callable[[str], np.ndarray],
    taus: Mapping[str, float] | None = None,
) -> dict[str, Measure]:
    """How each reward is measured before the mean is taken, from its unit, its tau, or its `ordered` scores.

    Raises `TgoError` as `combine`.
    """
    if kind not in TARGET_COMBINATIONS:
        raise TgoError(f"the target is {kind!r}: a combination is one of {', '.join(TARGET_COMBINATIONS)}.")
    if not units:
        raise TgoError(f"the target {kind} combines no reward: name at least one.")
    if kind == "majority":
        return {name: functools.partial(_votes, _tau(name, taus)) for name in units}
    for name, unit in units.items():
        if unit.size < 2:
            raise TgoError(
                f"the target {kind} needs at least 2 finite scores of {name}, the reference has {unit.size}: "
                "score more images, or leave the reward out of target.rewards."
            )
    if kind == "mean_rank":
        return {name: functools.partial(mid_ranks, ordered=ordered(name)) for name in units}
    return {name: functools.partial(_standard, unit.mean, unit.deviation) for name, unit in units.items()}


def _votes(tau: float, values: np.ndarray) -> np.ndarray:
    return (values >= tau).astype(np.float64)


def _standard(mean: float, deviation: float, values: np.ndarray) -> np.ndarray:
    return (values - mean) / deviation


def _tau(name: str, taus: Mapping[str, float] | None) -> float:
    if taus is None or name not in taus:
        raise TgoError(f"the target majority needs the tau of {name}: run the threshold stage first.")
    return taus[name]


def finite(values: np.ndarray) -> np.ndarray:
    """The finite values as float64."""
    values = np.asarray(values, dtype=np.float64)
    return values[np.isfinite(values)]


def standard_deviation(values: np.ndarray, name: str) -> float:
    """Standard deviation with n - 1 in the denominator. Raises `TgoError` if every value of `name` is the same."""
    unit = ScoreUnit(name)
    unit.add(values)
    return unit.deviation


def mid_ranks(values: np.ndarray, ordered: np.ndarray) -> np.ndarray:
    """Mid-rank distribution function F(v) = (#{x < v} + #{x <= v}) / 2n of sorted `ordered`; NaN stays NaN.

    Where `ordered` is float32, the values must be so too, whatever their type is.
    """
    order = np.argsort(values)  # look-ups in ascending order stay in the cache: 20 times faster for millions
    ascending, ranks = values[order].astype(ordered.dtype), np.empty(len(values))
    ranks[order] = ordered.searchsorted(ascending, side="left") + ordered.searchsorted(
        ascending, side="right"
    )
    return np.where(np.isnan(values), np.nan, ranks / (2 * ordered.size))
