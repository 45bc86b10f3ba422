"""Columns of scores on disk for tests, made as the stage makes them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tests.thresholds.shards import flat, score_table
from tgo_pipeline.params import Params
from tgo_pipeline.storage.tables import write_table
from tgo_pipeline.thresholds.adequacy.report import judge
from tgo_pipeline.thresholds.adequacy.table import AdequacyRow
from tgo_pipeline.thresholds.fit import Row, ScoredRewards, fit
from tgo_pipeline.thresholds.streams.column import ScoreColumn, write_block


class OnDisk(tempfile.TemporaryDirectory[str]):
    """A folder that lives as long as what refers to it."""

    @property
    def path(self) -> Path:
        return Path(self.name)


def column(values: np.ndarray, prompts: np.ndarray, parts: int = 3, threads: int = 2) -> ScoreColumn:
    """Finite scores (N,) of whole-numbered prompts (N,), in so many parts of about equally many prompts."""
    folder = OnDisk()
    order = np.argsort(prompts, kind="stable")
    owners, sizes = np.unique(prompts, return_counts=True)
    written, start, path = [], 0, folder.path / "scores"
    with path.open("wb") as file:
        for part in np.array_split(sizes, min(parts, max(1, owners.size))):
            stop = start + int(part.sum())
            written.append(
                write_block(file.fileno(), start, np.asarray(values, np.float64)[order[start:stop]], part)
            )
            start = stop
    made = ScoreColumn("clip", path, written, np.dtype(np.float64), threads)
    made.folder = folder  # type: ignore[attr-defined]
    return made


def matrix(scores: np.ndarray, parts: int = 3) -> ScoreColumn:
    """Scores (P, K) as a column."""
    return column(scores.ravel(), np.repeat(np.arange(len(scores)), scores.shape[1]), parts)


def scored(table: pa.Table, params: Params, prompts: pa.Table | None = None) -> ScoredRewards:
    """A table of scores as the threshold stage has it, and one of the prompts."""
    folder = OnDisk()
    (folder.path / "room").mkdir()
    path = folder.path / "scores.parquet"
    write_table(table, path, {})
    if prompts is not None:
        write_table(prompts, flat(folder.path).prompts, {})
    made = ScoredRewards([path], params, flat(folder.path), folder.path / "room")
    made.folder = folder  # type: ignore[attr-defined]
    return made


def judged(table: pa.Table, params: Params) -> tuple[pa.Table, dict[str, list[AdequacyRow]]]:
    """The thresholds table of a table of scores, and what is judged of each reward."""
    found: dict[str, list[AdequacyRow]] = {}

    def look(made: ScoreColumn, row: Row) -> None:
        found[made.name] = judge(made, row, params)

    return fit(scored(table, params), params, "f", look), found


def fitted(rewards: dict[str, Any], params: Params, per_prompt: int = 1) -> pa.Table:
    """The thresholds table of columns of scores."""
    return fit(scored(score_table(rewards, per_prompt), params), params, "f")
