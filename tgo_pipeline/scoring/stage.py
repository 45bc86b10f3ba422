"""Score shards of generations: one float32 column per reward or feedback, each with a fingerprint of its own.

A column depends on the generations shard and on its reward's files (or its source of feedback), so that adding one, or
changing its weights, computes that column alone and keeps the others bit for bit.
"""

from __future__ import annotations

import functools
import itertools
import logging
import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.executors import local
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.params.feedback import FeedbackParams
from tgo_pipeline.rewards import fingerprint
from tgo_pipeline.rewards.specs import Spec, resolve_all
from tgo_pipeline.scoring.memory import groups
from tgo_pipeline.scoring.metrics import write_metrics
from tgo_pipeline.scoring.score_shard import COLUMNS, Task, open_task, write_task
from tgo_pipeline.storage.fingerprints import content_fingerprint
from tgo_pipeline.storage.fingerprints import fingerprint as fingerprint_of
from tgo_pipeline.storage.shards import SHARD_NAME, Shard, Status, Stop, run_shards, state

if TYPE_CHECKING:
    from tgo_pipeline.feedback.columns import Columns
    from tgo_pipeline.rewards.engine.scorer import Scorer

log = logging.getLogger("tgo")
VERSION = 1
READ_ROWS = 32


def plan(
    generations: Path,
    rewards: Mapping[str, str | None],
    dtype: str = "auto",
    feedback: Mapping[str, FeedbackParams] | None = None,
) -> list[Shard]:
    """The score shards of a folder of generations, same names; reads metadata and hashes weights and the sources of
    feedback, loads nothing.

    Raises `TgoError` if generations are missing or not of their schema, or a reward's files or a source are missing.
    """
    return list(_plan(generations, resolve_all(rewards), dtype, feedback or {}))


def score_folder(
    generations: Path,
    scores: Path,
    rewards: Mapping[str, str | None],
    *,
    runtime: RuntimeParams,
    max_error_rate: float,
    dtype: str = "auto",
    feedback: Mapping[str, FeedbackParams] | None = None,
    metrics: Path | None = None,
) -> Status:
    """Bring the folder `scores` up to date: score every image of `generations` with `score.rewards`, and take the
    scores of `score.feedback`; write `metrics` (JSON), what each column holds.

    Rewards that do not fit into memory together are loaded one group after the other; none given, no model is loaded.
    A picture that cannot be decoded keeps its row, with null scores and the reason in `error`; one that nobody gave
    feedback on has a null in that column, which is no error. Raises `TgoError` if more than the share `max_error_rate`
    of all rows could not be scored, after everything is written, and if feedback is on none of the images, before.
    """
    wanted, feedback = resolve_all(rewards), feedback or {}
    columns = _plan(generations, wanted, dtype, feedback)
    given = _join(feedback, [generations / shard.name for shard in columns])

    def work(waiting: Sequence[Shard], stop: Stop) -> None:
        for names in groups(wanted, dtype, runtime) if wanted else []:
            make_worker = functools.partial(
                _Worker, generations, scores, wanted, dtype, columns, tuple(feedback), names
            )
            local.execute(waiting, stop, make_worker, runtime)
        _write_feedback(waiting, stop, generations, scores, columns, feedback, given)

    status = run_shards(scores, list(columns), work)
    if metrics is not None:
        write_metrics(metrics, scores, [*rewards, *feedback], given.counts if given else {})
    _check_errors(scores, list(columns), status.failed, max_error_rate)
    return status


def _join(feedback: Mapping[str, FeedbackParams], files: Sequence[Path]) -> Columns | None:
    if not feedback:
        return None
    from tgo_pipeline.feedback.columns import join

    return join(feedback, files)


def _write_feedback(
    waiting: Sequence[Shard],
    stop: Stop,
    generations: Path,
    scores: Path,
    columns: Mapping[Shard, Mapping[str, str]],
    feedback: Mapping[str, FeedbackParams],
    given: Columns | None,
) -> None:
    """Add the columns of feedback to the shards, which have those of the rewards by now."""
    if given is None:
        return
    from tgo_pipeline.feedback.columns import description

    described = {name: description(params) for name, params in feedback.items()}
    for shard in waiting:
        if state(scores, shard) != "done":
            task = open_task(generations, scores, shard, columns[shard], tuple(feedback), tuple(feedback))
            task.given = given.scores[shard.name]
            write_task(scores, task, columns[shard], described)
            stop.check()


def _plan(
    generations: Path, rewards: Mapping[str, Spec], dtype: str, feedback: Mapping[str, FeedbackParams]
) -> dict[Shard, dict[str, str]]:
    """Every shard with the fingerprint of each of its columns: the rewards in their order, then the feedback."""
    files = _complete(generations)
    contents = {name: {"reward": fingerprint(spec), "dtype": dtype} for name, spec in rewards.items()}
    contents |= _feedback_contents(feedback)
    planned = {}
    for path, (split, index, count) in files.items():
        source = _source_fingerprint(path)
        columns = {
            name: fingerprint_of(version=VERSION, generations=source, **content)
            for name, content in contents.items()
        }
        shard = Shard(split, index, count, fingerprint_of(columns=list(columns.items())))
        planned[shard] = columns
    return planned


def _feedback_contents(feedback: Mapping[str, FeedbackParams]) -> dict[str, dict[str, str]]:
    if not feedback:
        return {}
    from tgo_pipeline.feedback.columns import fingerprint as feedback_fingerprint

    return {name: {"feedback": feedback_fingerprint(params)} for name, params in feedback.items()}


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

    from tgo_pipeline.storage.tables import GENERATIONS, check_schema, read_metadata

    stored = read_metadata(path).get("fingerprint")
    check_schema(pq.read_schema(path), GENERATIONS, path, COLUMNS)
    return stored or content_fingerprint(path)


@dataclass
class _Worker:
    """Scores shards in one process with the rewards `names`; other columns (some are `feedback`) are kept if valid.

    Shards follow each other without a pause: the pictures of the next are decoded while one is with the networks.
    """

    generations: Path
    scores: Path
    rewards: Mapping[str, Spec]
    dtype: str
    columns: Mapping[Shard, Mapping[str, str]]
    feedback: Collection[str]
    names: Sequence[str]
    runtime: RuntimeParams

    def __post_init__(self) -> None:
        from tgo_pipeline.devices import keep_freed_memory
        from tgo_pipeline.executors.runtime import prepare_torch

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

    def _score(self, names: Sequence[str], tasks: Iterable[Task]) -> Iterator[Shard]:
        waiting: deque[Task] = deque()

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

    def _finish(self, waiting: deque[Task]) -> Iterator[Shard]:
        while waiting and waiting[0].complete:
            yield self._write(waiting.popleft())

    def _open(self, shard: Shard) -> Task:
        return open_task(self.generations, self.scores, shard, self.columns[shard], self.names, self.feedback)

    def _write(self, task: Task) -> Shard:
        return write_task(self.scores, task, self.columns[task.shard], self._described)

    def _scorer(self, names: Sequence[str]) -> Scorer:
        from tgo_pipeline.rewards import load_reward
        from tgo_pipeline.rewards.engine.scorer import Scorer

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
    from tgo_pipeline.storage.tables import read_table

    for shard in shards:
        for row in read_table(scores / shard.name, columns=["sample_id", "error"]).to_pylist():
            if row["error"]:
                return f"{row['sample_id']} in {shard.name}, {row['error']}"
    return "none"
