"""Score shards of generations: one float32 column per reward, each with a fingerprint of its own.

A column depends on the generations shard and on its reward's files, so that adding a reward, or changing one's
weights, computes that column alone and keeps the others bit for bit.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.executors import local
from tgo_pipeline.fingerprints import content_fingerprint
from tgo_pipeline.fingerprints import fingerprint as fingerprint_of
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.rewards import fingerprint
from tgo_pipeline.rewards.memory import groups
from tgo_pipeline.rewards.specs import Spec, resolve_all
from tgo_pipeline.shards import SHARD_NAME, Shard, Status, Stop, atomic, run_shards

if TYPE_CHECKING:
    import pyarrow as pa

    from tgo_pipeline.rewards.scorer import ScoredBatch, Scorer

log = logging.getLogger("tgo")
VERSION = 1
COLUMNS = ("sample_id", "prompt_id", "prompt", "image")
PARTIAL = "partial"
"""The fingerprint of a shard that lacks columns still: rewards that do not fit into memory together come in turn."""
READ_ROWS = 32


def plan(generations: Path, rewards: Mapping[str, str | None], dtype: str = "auto") -> list[Shard]:
    """The score shards of a folder of generations, same names; reads metadata and hashes weights, loads nothing.

    Raises `TgoError` if generations are missing or not of their schema, or a reward's files are.
    """
    return list(_plan(generations, resolve_all(rewards), dtype))


def score_folder(
    generations: Path,
    scores: Path,
    rewards: Mapping[str, str | None],
    *,
    runtime: RuntimeParams,
    max_error_rate: float,
    dtype: str = "auto",
) -> Status:
    """Bring the folder `scores` up to date: score every image of `generations` with `score.rewards`.

    Rewards that do not fit into memory together are loaded one group after the other. A picture that cannot be
    decoded keeps its row, with null scores and the reason in `error`. Raises `TgoError` if more than the share
    `max_error_rate` of all rows is such, after everything is written.
    """
    wanted = resolve_all(rewards)
    columns = _plan(generations, wanted, dtype)

    def work(waiting: Sequence[Shard], stop: Stop) -> None:
        for names in groups(wanted, dtype, runtime):
            make_worker = functools.partial(_Worker, generations, scores, wanted, dtype, columns, names)
            local.execute(waiting, stop, make_worker, runtime)

    status = run_shards(scores, list(columns), work)
    _check_errors(scores, list(columns), status.failed, max_error_rate)
    return status


def _plan(generations: Path, rewards: Mapping[str, Spec], dtype: str) -> dict[Shard, dict[str, str]]:
    """Every shard with the fingerprint of each of its columns, in the order of the rewards."""
    files = _complete(generations)
    contents = {name: fingerprint(spec) for name, spec in rewards.items()}
    planned = {}
    for path, (split, index, count) in files.items():
        source = _source_fingerprint(path)
        columns = {
            name: fingerprint_of(version=VERSION, generations=source, reward=content, dtype=dtype)
            for name, content in contents.items()
        }
        shard = Shard(split, index, count, fingerprint_of(columns=list(columns.items())))
        planned[shard] = columns
    return planned


def _complete(generations: Path) -> dict[Path, tuple[str, int, int]]:
    """The shards of a folder as (split, index, count). Raises `TgoError` unless every split has all of its own."""
    found: dict[Path, tuple[str, int, int]] = {}
    for path in sorted(generations.glob("*.parquet")):
        name = SHARD_NAME.fullmatch(path.name)
        if not name:
            raise TgoError(f"{path} is no shard: names are like train-00000-of-00004.parquet. Move it away.")
        found[path] = (name["split"], int(name["index"]), int(name["count"]))
    if not found:
        raise TgoError(f"{generations} holds no Parquet shard: run the generate stage first.")
    for split in {split for split, _, _ in found.values()}:
        numbers = sorted((count, index) for name, index, count in found.values() if name == split)
        count = numbers[-1][0]
        if numbers != [(count, index) for index in range(count)]:
            raise TgoError(
                f"{generations} holds {len(numbers)} of {count} shards of {split!r}: finish the generate stage first."
            )
    return found


def _source_fingerprint(path: Path) -> str:
    """What the scores of a shard depend on: its stored fingerprint, or the file itself if another tool wrote it."""
    import pyarrow.parquet as pq

    from tgo_pipeline.tables import GENERATIONS, check_schema, read_metadata

    stored = read_metadata(path).get("fingerprint")
    check_schema(pq.read_schema(path), GENERATIONS, path, COLUMNS)
    return stored or content_fingerprint(path)


@dataclass
class _Task:
    """A shard in work: the columns that are kept, those that are to be computed, and what came of them so far."""

    shard: Shard
    samples: pa.Table
    old: dict[str, pa.ChunkedArray]
    described: dict[str, dict[str, Any]]
    missing: tuple[str, ...]
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


@dataclass
class _Worker:
    """Scores shards in one process with the rewards `names`; other columns are kept if they are valid.

    Shards follow each other without a pause: the pictures of the next are decoded while one is with the networks.
    """

    generations: Path
    scores: Path
    rewards: Mapping[str, Spec]
    dtype: str
    columns: Mapping[Shard, Mapping[str, str]]
    names: Sequence[str]
    runtime: RuntimeParams

    def __post_init__(self) -> None:
        from tgo_pipeline.devices import keep_freed_memory, prepare_torch

        self._device = prepare_torch(self.runtime)
        if self._device.type == "cpu":
            keep_freed_memory()
        self._described: dict[str, dict[str, Any]] = {}

    def __call__(self, shards: Iterable[Shard]) -> Iterator[Shard]:
        for missing, tasks in itertools.groupby(map(self._open, shards), lambda task: task.missing):
            if missing:
                yield from self._score(missing, tasks)
            else:
                for task in tasks:
                    yield self._write(task)

    def _open(self, shard: Shard) -> _Task:
        """What is there of a shard, and what is to be computed."""
        from tgo_pipeline.tables import GENERATIONS, read_table

        old, described = _still_valid(self.scores / shard.name, self.columns[shard])
        samples = read_table(
            self.generations / shard.name, GENERATIONS, [name for name in COLUMNS if name != "image"]
        )
        prompts = samples["prompt"]
        if prompts.null_count:
            sample = samples["sample_id"][prompts.is_null().to_pylist().index(True)]
            raise TgoError(f"sample {sample} has no prompt: give every image of {self.generations} one.")
        missing = tuple(name for name in self.names if name not in old)
        return _Task(shard, samples, old, described, missing)

    def _score(self, names: Sequence[str], tasks: Iterable[_Task]) -> Iterator[Shard]:
        waiting: deque[_Task] = deque()

        def parts() -> Iterator[Iterator[tuple[bytes | None, str]]]:
            for task in tasks:
                waiting.append(task)
                yield _pictures(self.generations / task.shard.name)

        with self._scorer(names) as scorer:
            for _, batch in scorer.stream_parts(parts()):
                yield from self._finish(waiting)
                waiting[0].add(batch)
                yield from self._finish(waiting)
            yield from self._finish(waiting)

    def _finish(self, waiting: deque[_Task]) -> Iterator[Shard]:
        while waiting and waiting[0].complete:
            yield self._write(waiting.popleft())

    def _write(self, task: _Task) -> Shard:
        from tgo_pipeline.tables import write_table

        wanted = self.columns[task.shard]
        have = [name for name in wanted if name in task.old or name in task.missing]
        if not task.missing and len(have) < len(wanted):
            return task.shard  # another group of rewards has what it lacks
        table = _table(task, have)
        failed = table.num_rows - table["error"].null_count
        metadata = {
            "fingerprint": task.shard.fingerprint if len(have) == len(wanted) else PARTIAL,
            "failed": failed,
            "columns": {name: wanted[name] for name in have},
            "rewards": {name: self._described.get(name) or task.described[name] for name in have},
        }
        with atomic(self.scores / task.shard.name) as temporary:
            write_table(table, temporary, metadata)
        _log(task, len(have) - len(task.missing), failed)
        return task.shard

    def _scorer(self, names: Sequence[str]) -> Scorer:
        from tgo_pipeline.rewards import load_reward
        from tgo_pipeline.rewards.scorer import Scorer

        runtime = self.runtime
        rewards = {
            name: load_reward(self.rewards[name], None, self._device, self.dtype, runtime.compile)
            for name in names
        }
        self._described |= {name: reward.description for name, reward in rewards.items()}
        return Scorer(
            rewards,
            batch_size=runtime.score_batch_size,
            workers=decoding_workers(runtime, self._device.type),
            threads=max(1, (os.cpu_count() or 1) // runtime.processes),
        )


def decoding_workers(runtime: RuntimeParams, device: str) -> int:
    """Processes that decode for one scoring process: as stated, else the cores beside a GPU, none on a CPU."""
    if runtime.workers is not None:
        return runtime.workers
    return max(1, (os.cpu_count() or 1) // runtime.processes - 1) if device != "cpu" else 0


def _pictures(path: Path) -> Iterator[tuple[bytes | None, str]]:
    """Image bytes and prompt of each row of a generations shard, a few in memory at a time."""
    import pyarrow.parquet as pq

    with pq.ParquetFile(path) as file:
        for part in file.iter_batches(READ_ROWS, columns=["image", "prompt"]):
            for row in part.to_pylist():
                yield row["image"] and row["image"]["bytes"], row["prompt"]


def _still_valid(
    path: Path, wanted: Mapping[str, str]
) -> tuple[dict[str, pa.ChunkedArray], dict[str, dict[str, Any]]]:
    """The columns of an existing score shard whose fingerprints are the wanted ones, with its errors; and what
    rewards they are of. A shard that cannot be read counts as none: it is written anew.
    """
    from tgo_pipeline.tables import read_metadata, read_table

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


def _table(task: _Task, names: Sequence[str]) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    from tgo_pipeline.tables import scores_schema

    arrays = {name: task.samples[name] for name in ("sample_id", "prompt_id")}
    for name in names:
        if name in task.old:
            arrays[name] = task.old[name]
            continue
        column = np.concatenate([np.empty(0, np.float32), *(batch.columns[name] for batch in task.batches)])
        arrays[name] = pa.array(column, mask=np.isnan(column))
    arrays["error"] = pa.array(_errors(task, [arrays[name] for name in names]), pa.string())
    return pa.table(arrays, schema=scores_schema(names))


def _errors(task: _Task, columns: Sequence[pa.Array]) -> list[str | None]:
    """Why a row has no score: the reason found now, or the one stored with the columns that are kept."""
    old = task.old["error"].to_pylist() if task.old else [None] * task.samples.num_rows
    new = [error for batch in task.batches for error in batch.errors] or old
    lacking = [any(row) for row in zip(*(column.is_null().to_pylist() for column in columns), strict=True)]
    return [(now or before) if lacks else None for now, before, lacks in zip(new, old, lacking, strict=True)]


def _log(task: _Task, kept: int, failed: int) -> None:
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


def _check_errors(scores: Path, shards: Sequence[Shard], failed: int, max_error_rate: float) -> None:
    import pyarrow.parquet as pq

    rows = sum(pq.read_metadata(scores / shard.name).num_rows for shard in shards)
    if failed > max_error_rate * rows:
        raise TgoError(
            f"{failed} of {rows} images could not be scored ({failed / rows:.1%}), more than score.max_error_rate "
            f"({max_error_rate:.1%}) allows; all scores are written. The first: {_first_error(scores, shards)}. "
            "Mend the images, or raise max_error_rate to go on without them."
        )


def _first_error(scores: Path, shards: Sequence[Shard]) -> str:
    from tgo_pipeline.tables import read_table

    for shard in shards:
        for row in read_table(scores / shard.name, columns=["sample_id", "error"]).to_pylist():
            if row["error"]:
                return f"{row['sample_id']} in {shard.name}, {row['error']}"
    return "none"
