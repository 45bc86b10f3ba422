"""Score shards of generations: one float32 column per reward, each with a fingerprint of its own.

A column depends on the generations shard and on its reward's files, so that adding a reward, or changing one's
weights, computes that column alone and keeps the others bit for bit.
"""

from __future__ import annotations

import functools
import logging
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tgo_pipeline.errors import TgoError
from tgo_pipeline.executors import local
from tgo_pipeline.fingerprints import content_fingerprint
from tgo_pipeline.fingerprints import fingerprint as fingerprint_of
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.rewards.layouts import fingerprint
from tgo_pipeline.shards import SHARD_NAME, Shard, Status, Stop, atomic, run_shards

if TYPE_CHECKING:
    import pyarrow as pa

    from tgo_pipeline.rewards.scorer import Scorer, Scores

log = logging.getLogger("tgo")
VERSION = 1
COLUMNS = ("sample_id", "prompt_id", "prompt", "image")


def plan(generations: Path, rewards: Mapping[str, str]) -> list[Shard]:
    """The score shards of a folder of generations, same names; reads metadata and hashes weights, loads nothing.

    Raises `TgoError` if generations are missing or not of their schema, or a reward's files are.
    """
    return list(_plan(generations, rewards))


def score_folder(
    generations: Path,
    scores: Path,
    rewards: Mapping[str, str],
    *,
    runtime: RuntimeParams,
    max_error_rate: float,
) -> Status:
    """Bring the folder `scores` up to date: score every image of `generations` with `rewards` (name to source).

    A picture that cannot be decoded keeps its row, with null scores and the reason in `error`. Raises `TgoError` if
    more than the share `max_error_rate` of all rows is such, after everything is written.
    """
    columns = _plan(generations, rewards)
    make_worker = functools.partial(_Worker, generations, scores, dict(rewards), columns)

    def work(waiting: Sequence[Shard], stop: Stop) -> None:
        local.execute(waiting, stop, make_worker, runtime)

    status = run_shards(scores, list(columns), work)
    _check_errors(scores, list(columns), status.failed, max_error_rate)
    return status


def _plan(generations: Path, rewards: Mapping[str, str]) -> dict[Shard, dict[str, str]]:
    """Every shard with the fingerprint of each of its columns, in the order of the rewards."""
    files = _complete(generations)
    contents = {name: fingerprint(name, source) for name, source in rewards.items()}
    planned = {}
    for path, (split, index, count) in files.items():
        source = _source_fingerprint(path)
        columns = {
            name: fingerprint_of(version=VERSION, generations=source, reward=content)
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
class _Worker:
    """Scores shards in one process; rewards are loaded when the first shard needs them."""

    generations: Path
    scores: Path
    rewards: Mapping[str, str]
    columns: Mapping[Shard, Mapping[str, str]]
    runtime: RuntimeParams

    def __post_init__(self) -> None:
        from tgo_pipeline.devices import prepare_torch

        self._device = str(prepare_torch(self.runtime))
        self._scorers: dict[tuple[str, ...], Scorer] = {}

    def __call__(self, shard: Shard) -> None:
        from tgo_pipeline.tables import GENERATIONS, read_table, write_table

        started_s = time.monotonic()
        wanted = self.columns[shard]
        old = _still_valid(self.scores / shard.name, wanted)
        missing = tuple(name for name in wanted if name not in old)
        generations = read_table(self.generations / shard.name, GENERATIONS, COLUMNS)
        new = self._score(generations, missing) if missing else _errors_of(old)
        table = _table(generations, list(wanted), old, new)
        failed = table.num_rows - table["error"].null_count
        metadata = {"fingerprint": shard.fingerprint, "failed": failed, "columns": dict(wanted)}
        with atomic(self.scores / shard.name) as temporary:
            write_table(table, temporary, metadata)
        _log(shard, table.num_rows, missing, len(wanted) - len(missing), failed, time.monotonic() - started_s)

    def _score(self, generations: pa.Table, names: tuple[str, ...]) -> Scores:
        images = [image["bytes"] if image else None for image in generations["image"].to_pylist()]
        prompts = generations["prompt"].to_pylist()
        if None in prompts:
            sample = generations["sample_id"][prompts.index(None)]
            raise TgoError(f"sample {sample} has no prompt: give every image of {self.generations} one.")
        return self._scorer(names).score(images, prompts)

    def _scorer(self, names: tuple[str, ...]) -> Scorer:
        from tgo_pipeline.rewards import load_reward
        from tgo_pipeline.rewards.scorer import Scorer

        if names not in self._scorers:
            self._scorers.clear()  # shards of one run nearly always lack the same columns
            threads = max(1, (os.cpu_count() or 1) // self.runtime.processes)
            rewards = {name: load_reward(name, self.rewards[name], self._device) for name in names}
            self._scorers[names] = Scorer(rewards, self.runtime.score_batch_size, threads)
        return self._scorers[names]


def _still_valid(path: Path, wanted: Mapping[str, str]) -> dict[str, pa.ChunkedArray]:
    """The columns of an existing score shard whose fingerprints are the wanted ones, and its errors if there are any.

    A shard that cannot be read counts as none: it is written anew.
    """
    from tgo_pipeline.tables import read_metadata, read_table

    if not path.is_file():
        return {}
    try:
        stored = read_metadata(path).get("columns", {})
        valid = [name for name, content in wanted.items() if stored.get(name) == content]
        if not valid:
            return {}
        table = read_table(path, columns=[*valid, "error"])
    except TgoError as error:
        log.warning("scoring all of %s again: %s", path.name, error)
        return {}
    return {name: table[name] for name in table.column_names}


def _errors_of(old: Mapping[str, pa.ChunkedArray]) -> Scores:
    """No column, and the errors that an existing shard holds."""
    from tgo_pipeline.rewards.scorer import Scores

    return Scores({}, {row: reason for row, reason in enumerate(old["error"].to_pylist()) if reason})


def _table(
    generations: pa.Table, names: Sequence[str], old: Mapping[str, pa.ChunkedArray], new: Scores
) -> pa.Table:
    import numpy as np
    import pyarrow as pa

    from tgo_pipeline.tables import scores_schema

    rows = range(generations.num_rows)
    unreadable = np.isin(rows, list(new.errors))
    arrays = {name: generations[name] for name in ("sample_id", "prompt_id")}
    for name in names:
        arrays[name] = old[name] if name in old else pa.array(new.columns[name], mask=unreadable)
    arrays["error"] = pa.array([new.errors.get(row) for row in rows], pa.string())
    return pa.table(arrays, schema=scores_schema(names))


def _log(shard: Shard, rows: int, computed: Sequence[str], kept: int, failed: int, took_s: float) -> None:
    done = f"computed {', '.join(computed)}" if computed else "computed nothing"
    log.info(
        "%s: %d samples, %s, kept %d columns, %d failed, %.1f s", shard.name, rows, done, kept, failed, took_s
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
