"""Reads the tables of a run into plain dataclasses, one per section; a section without its inputs is None."""

from __future__ import annotations

import csv
import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tgo_pipeline.evaluation.statistics.compare import EVALUATION
from tgo_pipeline.formats.json_text import read_object
from tgo_pipeline.rendering.text import decimals
from tgo_pipeline.rewards.toys import ShownNames
from tgo_pipeline.storage import tables
from tgo_pipeline.storage.paths import parquet_files
from tgo_pipeline.thresholds.table import THRESHOLDS

if TYPE_CHECKING:
    import polars as pl

WEIGHT_BINS = 40  # as in the label stage's own chart


@dataclass(frozen=True)
class ThresholdRow:
    """What the report shows of a row of the thresholds table; scores are in the reward's own units."""

    reward: str
    percentile: float
    tau: float | None
    confidence: float
    tau_low: float | None
    tau_high: float | None
    tau_bootstrap_low: float | None
    tau_bootstrap_high: float | None
    n: int
    n_null: int
    n_nonfinite: int
    mean: float | None
    std: float | None
    q05: float | None
    q95: float | None
    ties: int | None
    positive_fraction: float | None
    between_prompt_variance: float | None
    within_prompt_variance: float | None
    flip_rate_prompt_mean: float | None
    note: str | None
    source: str

    @property
    def decimals(self) -> int:
        """Decimals that tell scores of this spread apart."""
        return decimals(self.std)

    @property
    def between_prompt_share(self) -> float | None:
        """The part of the variance that lies between prompts, from 0 to 1."""
        if self.between_prompt_variance is None or self.within_prompt_variance is None:
            return None
        total = self.between_prompt_variance + self.within_prompt_variance
        return self.between_prompt_variance / total if total else None


@dataclass(frozen=True)
class HistogramBin:
    """One bar of a histogram: `count` values in [low, high)."""

    low: float
    high: float
    count: int


@dataclass(frozen=True)
class LabelSummary:
    """Counts, weights and their effective sample size, (sum w)^2 / sum w^2."""

    reward: str
    n: int
    positive: int
    positive_weight_share: float
    mean_weight: float
    max_weight: float
    effective_size: float
    histogram: Mapping[str, list[HistogramBin]]


@dataclass(frozen=True)
class EvaluationRow:
    """Tuned against base on one test set and reward; `effect` is the difference in standard deviations of base."""

    test_set: str
    reward: str
    n: int
    n_prompts: int
    n_excluded: int
    base_mean: float
    tuned_mean: float
    base_median: float
    tuned_median: float
    base_std: float
    difference: float
    difference_low: float | None
    difference_high: float | None
    effect: float | None
    wins: int
    ties: int
    losses: int
    win_rate: float
    win_rate_low: float
    win_rate_high: float
    win_tie_rate: float
    is_target: bool

    @property
    def decimals(self) -> int:
        """Decimals that tell scores of this spread apart."""
        return decimals(self.base_std)

    @property
    def effect_low(self) -> float | None:
        """The low end of the difference in standard deviations of the base."""
        return self._scaled(self.difference_low)

    @property
    def effect_high(self) -> float | None:
        """The high end of the difference in standard deviations of the base."""
        return self._scaled(self.difference_high)

    def _scaled(self, value: float | None) -> float | None:
        return value / self.base_std if value is not None and self.base_std else None


def prompt_counts(path: Path) -> dict[str, int] | None:
    """Prompts per source ("train" and the test sets)."""
    if not path.is_file():
        return None
    return dict(Counter(tables.read_table(path, tables.PROMPTS)["source"].to_pylist()))


def shard_counts(folder: Path) -> tuple[int, int] | None:
    """(rows, failed samples) of all shards of a folder, from their metadata alone."""
    shards = parquet_files(folder)
    if not shards:
        return None
    rows = sum(tables.row_count(shard) for shard in shards)
    return rows, sum(int(tables.read_metadata(shard).get("failed", 0)) for shard in shards)


def thresholds(path: Path, shown: ShownNames) -> list[ThresholdRow] | None:
    """The rows of the thresholds table."""
    return _rows(path, ThresholdRow, THRESHOLDS, shown)


def evaluation(path: Path, shown: ShownNames) -> list[EvaluationRow] | None:
    """The rows of the evaluation table."""
    return _rows(path, EvaluationRow, EVALUATION, shown)


def _rows(path: Path, kind: type, schema: pa.Schema, shown: ShownNames) -> Any:
    if not path.is_file():
        return None
    names = [field.name for field in fields(kind)]
    rows = tables.read_table(path, schema).select(names).to_pylist()
    return [kind(**row) for row in shown.rows(rows, "reward")]


def score_histograms(plots: Path, shown: ShownNames) -> dict[str, list[HistogramBin]] | None:
    """The histogram of every reward that the threshold stage wrote to `scores.csv`, by its shown name in a csv."""
    path = plots / "scores.csv"
    if not path.is_file():
        return None
    histograms: dict[str, list[HistogramBin]] = {}
    with path.open(newline="", encoding="utf-8") as stream:
        for row in csv.DictReader(stream):
            part = HistogramBin(float(row["bin_low"]), float(row["bin_high"]), int(float(row["count"])))
            histograms.setdefault(shown(row["reward"]), []).append(part)
    return histograms


def label_summary(folder: Path, shown: ShownNames) -> LabelSummary | None:
    """Balance and weights of all label shards, one in memory at a time.

    The sums are taken in one order: those of several threads differ in their last digits from run to run.
    """
    shards = parquet_files(folder)
    parts = [tables.read_table(shard, tables.LABELS, ["reward", "label", "weight"]) for shard in shards]
    parts = [part for part in parts if part.num_rows]
    if not parts:
        return None
    weights = [part["weight"].to_numpy() for part in parts]
    positive = [part["label"].to_numpy() == 1 for part in parts]
    n, total = sum(map(len, weights)), math.fsum(weight.sum() for weight in weights)
    low, high = min(weight.min() for weight in weights), max(weight.max() for weight in weights)
    chosen = math.fsum(weight[side].sum() for weight, side in zip(weights, positive, strict=True))
    sides = {
        name: np.concatenate(
            [weight[side == (name == "positive")] for weight, side in zip(weights, positive, strict=True)]
        )
        for name in tables.LABEL_NAMES
    }
    return LabelSummary(
        reward=shown(parts[0]["reward"][0].as_py()),
        n=n,
        positive=sum(int(side.sum()) for side in positive),
        positive_weight_share=chosen / total,
        mean_weight=total / n,
        max_weight=float(high),
        effective_size=total**2 / math.fsum((weight * weight).sum() for weight in weights),
        histogram={name: _histogram(values, float(low), float(high)) for name, values in sides.items()},
    )


def _histogram(values: np.ndarray, low: float, high: float) -> list[HistogramBin]:
    """The bars of the weights of one side that hold any; all sides have the same edges."""
    width = (high - low) / WEIGHT_BINS or 1.0
    places = np.floor((values - low) / width).clip(0, WEIGHT_BINS - 1).astype(int)
    counts = np.bincount(places, minlength=WEIGHT_BINS)
    return [
        HistogramBin(low + place * width, low + (place + 1) * width, int(counts[place]))
        for place in np.flatnonzero(counts).tolist()
    ]


def feedback_counts(metrics: Path, columns: Iterable[str]) -> dict[str, dict[str, float]]:
    """What the score stage counted in each column of feedback; empty where it wrote nothing."""
    path = metrics / "score.json"
    if not path.is_file():
        return {}
    content = read_object(path, "run the score stage again")
    return {name: content[name] for name in columns if name in content}


def scan_labels(folder: Path) -> pl.LazyFrame | None:
    """All label shards as one lazy frame. Raises `TgoError` if one of them is not a table of labels."""
    shards = parquet_files(folder)
    for shard in shards:
        tables.check_schema(tables.read_schema(shard), tables.LABELS, shard)
    return tables.scan(shards) if shards else None
