"""One shard of scores in work: which columns are kept, which are computed, and how the whole is written."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.shards import Shard, atomic

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from tgo_pipeline.rewards.engine.scorer import ScoredBatch

log = logging.getLogger("tgo")
COLUMNS = ("sample_id", "prompt_id", "prompt", "image")
PARTIAL = "partial"
"""The fingerprint of a shard that lacks columns still: rewards that do not fit into memory together come in turn."""


@dataclass
class Task:
    """A shard in work: the columns that are kept, those that are to be computed, and what came of them so far.

    `feedback` names the columns that people gave: a null there is no failure. `given` holds such columns, (N,) float32.
    """

    shard: Shard
    samples: pa.Table
    old: dict[str, pa.ChunkedArray]
    described: dict[str, dict[str, Any]]
    missing: tuple[str, ...]
    feedback: Collection[str] = ()
    given: Mapping[str, np.ndarray] = field(default_factory=dict)
    started_s: float = field(default_factory=time.monotonic)
    batches: list[ScoredBatch] = field(default_factory=list)
    rows: int = 0

    def add(self, batch: ScoredBatch) -> None:
        """Take the next scores."""
        self.batches.append(batch)
        self.rows += len(batch.errors)

    @property
    def complete(self) -> bool:
        return self.rows == self.samples.num_rows

    def values(self, name: str) -> np.ndarray:
        """A column that was computed or given, float32 (N,), NaN where there is none."""
        import numpy as np

        if name in self.given:
            return self.given[name]
        return np.concatenate([np.empty(0, np.float32), *(batch.columns[name] for batch in self.batches)])


def open_task(
    generations: Path,
    scores: Path,
    shard: Shard,
    wanted: Mapping[str, str],
    names: Sequence[str],
    feedback: Collection[str] = (),
) -> Task:
    """What is there of a shard with the columns `wanted` (name to fingerprint), and which of `names` it lacks.

    Raises `TgoError` if a sample has no prompt.
    """
    from tgo_pipeline.storage.tables import GENERATIONS, read_table

    old, described = _still_valid(scores / shard.name, wanted)
    samples = read_table(generations / shard.name, GENERATIONS, [name for name in COLUMNS if name != "image"])
    prompts = samples["prompt"]
    if prompts.null_count:
        sample = samples["sample_id"][prompts.is_null().to_pylist().index(True)]
        raise TgoError(f"sample {sample} has no prompt: give every image of {generations} one.")
    missing = tuple(name for name in names if name not in old)
    return Task(shard, samples, old, described, missing, feedback)


def _still_valid(
    path: Path, wanted: Mapping[str, str]
) -> tuple[dict[str, pa.ChunkedArray], dict[str, dict[str, Any]]]:
    """The columns of an existing score shard whose fingerprints are the wanted ones, with its errors; and what
    rewards they are of. A shard that cannot be read counts as none: it is written anew.
    """
    from tgo_pipeline.storage.tables import read_metadata, read_table

    if not path.is_file():
        return {}, {}
    try:
        metadata = read_metadata(path)
        stored, described = metadata.get("columns", {}), metadata.get("rewards", {})
        valid = [
            name for name, content in wanted.items() if stored.get(name) == content and name in described
        ]
        if not valid:
            return {}, {}
        table = read_table(path, columns=[*valid, "error"])
    except TgoError as error:
        log.warning("scoring all of %s again: %s", path.name, error)
        return {}, {}
    return {name: table[name] for name in table.column_names}, described


def write_task(
    scores: Path, task: Task, wanted: Mapping[str, str], described: Mapping[str, dict[str, Any]]
) -> Shard:
    """Write what is there of a shard, unless nothing came to it; it is done when no wanted column is missing."""
    from tgo_pipeline.storage.tables import write_table

    have = [name for name in wanted if name in task.old or name in task.missing]
    if not task.missing and len(have) < len(wanted):
        return task.shard  # another group of rewards, or the feedback, has what it lacks
    table = _table(task, have)
    failed = table.num_rows - table["error"].null_count
    metadata = {
        "fingerprint": task.shard.fingerprint if len(have) == len(wanted) else PARTIAL,
        "failed": failed,
        "columns": {name: wanted[name] for name in have},
        "rewards": {name: described.get(name) or task.described[name] for name in have},
    }
    with atomic(scores / task.shard.name) as temporary:
        write_table(table, temporary, metadata)
    _log(task, len(have) - len(task.missing), failed)
    return task.shard


def _table(task: Task, names: Sequence[str]) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    from tgo_pipeline.storage.tables import scores_schema

    arrays = {name: task.samples[name] for name in ("sample_id", "prompt_id")}
    for name in names:
        if name in task.old:
            arrays[name] = task.old[name]
            continue
        column = task.values(name)
        arrays[name] = pa.array(column, mask=np.isnan(column))
    computed = [arrays[name] for name in names if name not in task.feedback]
    arrays["error"] = pa.array(_errors(task, computed), pa.string())
    return pa.table(arrays, schema=scores_schema(names))


def _errors(task: Task, columns: Sequence[pa.Array]) -> list[str | None]:
    """Why a row has no score of a reward: the reason found now, or the one stored with the columns that are kept."""
    rows = task.samples.num_rows
    old = task.old["error"].to_pylist() if task.old else [None] * rows
    new = [error for batch in task.batches for error in batch.errors] or old
    nulls = [column.is_null().to_pylist() for column in columns]
    lacking = [any(row) for row in zip(*nulls, strict=True)] if nulls else [False] * rows
    return [(now or before) if lacks else None for now, before, lacks in zip(new, old, lacking, strict=True)]


def _log(task: Task, kept: int, failed: int) -> None:
    done = f"computed {', '.join(task.missing)}" if task.missing else "computed nothing"
    log.info(
        "%s: %d samples, %s, kept %d columns, %d failed, %.1f s",
        task.shard.name,
        task.samples.num_rows,
        done,
        kept,
        failed,
        time.monotonic() - task.started_s,
    )
