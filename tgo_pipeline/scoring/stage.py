"""Score shards of generations: a float32 column per number of a reward or feedback, each with a fingerprint of its own.

A column depends on the generations shard and on its reward's files (or its source of feedback), so that adding one, or
changing its weights, computes that column alone and keeps the others bit for bit.
"""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tgo_pipeline.errors import TgoError
from tgo_pipeline.executors import Ending, Worker, execute, never, shares_folders
from tgo_pipeline.formats.limits import IMAGES
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.params.feedback import FeedbackParams
from tgo_pipeline.rewards import fingerprint
from tgo_pipeline.rewards.specs import Spec, canonical, columns, of_images, resolve_all
from tgo_pipeline.scoring.columns import ColumnScorer
from tgo_pipeline.scoring.memory import groups
from tgo_pipeline.scoring.metrics import write_metrics
from tgo_pipeline.scoring.score_shard import COLUMNS, ScoreShards
from tgo_pipeline.storage import digests
from tgo_pipeline.storage.fingerprints import content_fingerprint
from tgo_pipeline.storage.fingerprints import fingerprint as fingerprint_of
from tgo_pipeline.storage.paths import SHARD_NAME, parquet_files
from tgo_pipeline.storage.shards import Shard, Status, Stop, run_shards, state

if TYPE_CHECKING:
    from tgo_pipeline.feedback.columns import FeedbackColumns

VERSION = 1
FRAMES = 8
"""Of a clip, as many frames as rewards of images score."""


def plan(
    generations: Path,
    rewards: Mapping[str, str | None],
    dtype: str = "auto",
    feedback: Mapping[str, FeedbackParams] | None = None,
    frames: int = FRAMES,
    frame_parts: Sequence[str] = (),
) -> list[Shard]:
    """The score shards of a folder of generations, same names; reads metadata and hashes weights and the sources of
    feedback, loads nothing.

    Raises `TgoError` if generations are missing or not of their schema, or a reward's files or a source are missing.
    """
    wanted = columns(resolve_all(rewards), frame_parts)
    return list(_plan(generations, wanted, dtype, feedback or {}, frames, frame_parts))


def changes(scores: Path, shards: Sequence[Shard], rewards: Mapping[str, str | None]) -> list[str]:
    """Of stale shards, which columns an earlier version of a reward's code computed, and what it did otherwise."""
    from tgo_pipeline.rewards.files.layouts import LAYOUTS
    from tgo_pipeline.storage.tables import read_metadata

    stale = next((shard for shard in shards if state(scores, shard) == "stale"), None)
    stored = read_metadata(scores / stale.name).get("rewards", {}) if stale else {}
    found = []
    for name, spec in resolve_all(rewards).items():
        before, layout = stored.get(name, {}).get("version"), LAYOUTS.get(canonical(spec.reward))
        if before and layout and before != str(layout.version):
            found.append(f"{name} is of version {before} of its code, now {layout.version}: {layout.changed}")
    return found


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
    frames: int = FRAMES,
    frame_parts: Sequence[str] = (),
) -> Status:
    """Bring the folder `scores` up to date: score every image of `generations` with `score.rewards`, and take the
    scores of `score.feedback`; write `metrics` (JSON), what each column holds. Of clips, rewards of images score
    `frames` frames, and give their mean, and `frame_parts` of them (`specs.OF_FRAMES`).

    Rewards that do not fit into memory together are loaded one group after the other; without rewards no model is.
    An image that cannot be decoded keeps its row, with null scores and the reason in `error`; one that nobody gave
    feedback on has a null in that column, which is not an error. Raises `TgoError` if more than the share
    `max_error_rate` of all rows could not be scored, after everything is written, and if feedback is on none of the
    images, before.
    """
    from tgo_pipeline.feedback.columns import join

    wanted, feedback = columns(resolve_all(rewards), frame_parts), feedback or {}
    planned = _plan(generations, wanted, dtype, feedback, frames, frame_parts)
    shards = ScoreShards(generations, scores, planned, tuple(feedback))
    kind, _ = _source(generations / next(iter(planned)).name)
    of_clips = frames if kind == "video" else None
    given = join(feedback, [generations / shard.name for shard in shards.columns]) if feedback else None

    def work(waiting: Sequence[Shard], stop: Stop) -> None:
        for names in groups(wanted, dtype, runtime) if wanted else []:  # without one, no torch is imported
            make_worker = functools.partial(_worker, shards, wanted, dtype, names, of_clips)
            execute(waiting, stop, make_worker, runtime)
        if given is not None:
            _write_feedback(waiting, stop, shards, feedback, given)

    plan = list(shards.columns)
    status = run_shards(scores, plan, work, together=shares_folders(runtime))
    if metrics is not None:
        write_metrics(metrics, scores, [*wanted, *feedback], given.counts if given else {})
    _check_errors(scores, plan, status.failed, max_error_rate)
    return status


def _worker(
    shards: ScoreShards,
    wanted: Mapping[str, Spec],
    dtype: str,
    names: Sequence[str],
    frames: int | None,
    runtime: RuntimeParams,
) -> Worker:
    """Fills the columns `names` of shards in one process; other columns are kept if they are valid."""
    scorer = ColumnScorer(wanted, dtype, runtime, frames)

    def work(waiting: Iterable[Shard], is_ending: Ending = never, /) -> Iterator[Shard]:
        tasks = (shards.open(shard, names) for shard in waiting)
        return scorer.run(tasks, lambda task: shards.write(task, scorer.describe(task.missing)))

    return work


def _write_feedback(
    waiting: Sequence[Shard],
    stop: Stop,
    shards: ScoreShards,
    feedback: Mapping[str, FeedbackParams],
    given: FeedbackColumns,
) -> None:
    """Add the columns of feedback to the shards, which have those of the rewards by now."""
    from tgo_pipeline.feedback.columns import description

    described = {name: description(params) for name, params in feedback.items()}
    for shard in waiting:
        if state(shards.scores, shard) != "done":
            shards.write(shards.open(shard, tuple(feedback)), described, given.scores[shard.name])
            stop.check()


def _plan(
    generations: Path,
    wanted: Mapping[str, Spec],
    dtype: str,
    feedback: Mapping[str, FeedbackParams],
    frames: int,
    frame_parts: Sequence[str],
) -> dict[Shard, dict[str, str]]:
    """Every shard with the fingerprint of each of its columns: the rewards in their order, then the feedback.

    Raises `TgoError` for parts of frames where images are scored.
    """
    from tgo_pipeline.feedback import columns as given

    files = _complete(generations)
    sources = {path: _source(path) for path in files}
    clips = _one_kind(generations, {kind for kind, _ in sources.values()}) == "video"
    if frame_parts and not clips:
        raise TgoError(
            f"score.frame_parts is {', '.join(frame_parts)}, which are of the frames of clips, and images are scored "
            "here: leave it out."
        )
    contents = {
        name: {"reward": fingerprint(spec if clips else of_images(spec)), "dtype": dtype, **IMAGES.identity}
        for name, spec in wanted.items()
    }
    if clips:
        contents = {name: content | {"frames": frames} for name, content in contents.items()}
    contents |= {name: {"feedback": given.fingerprint(params)} for name, params in feedback.items()}
    planned = {}
    for path, (split, index, count) in files.items():
        filled = {
            name: fingerprint_of(version=VERSION, generations=sources[path][1], **content)
            for name, content in contents.items()
        }
        content = fingerprint_of(columns=list(filled.items()))
        planned[Shard(split, index, count, content, inputs=digests.of(path))] = filled
    return planned


def _one_kind(generations: Path, kinds: set[str]) -> str:
    """The column of the shards' samples, `image` or `video`. Raises `TgoError` if it is not the same in all."""
    if len(kinds) > 1:
        raise TgoError(
            f"{generations} holds shards of images and shards of clips: run the generate stage again."
        )
    return kinds.pop()


def _complete(generations: Path) -> dict[Path, tuple[str, int, int]]:
    """The shards of a folder as (split, index, count). Raises `TgoError` unless every split has all of its own."""
    found: dict[Path, tuple[str, int, int]] = {}
    for path in parquet_files(generations):
        name = SHARD_NAME.fullmatch(path.name)
        if not name:
            raise TgoError(
                f"{path} is not a shard: names are like train-00000-of-00004.parquet. Move it away."
            )
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


def _source(path: Path) -> tuple[str, str]:
    """The column of a shard's samples, and what its scores depend on: the fingerprint that it stores, or the file
    itself if another tool wrote it."""
    from tgo_pipeline.storage.tables import (
        check_schema,
        generations_schema,
        metadata_of,
        read_schema,
        sample_column_of,
    )

    schema = read_schema(path)
    column = sample_column_of(schema, path)
    stored = metadata_of(schema, path).get("fingerprint")
    check_schema(schema, generations_schema(column), path, [*COLUMNS, column])
    return column, stored or content_fingerprint(path)


def _check_errors(scores: Path, shards: Sequence[Shard], failed: int, max_error_rate: float) -> None:
    from tgo_pipeline.storage.tables import row_count

    rows = sum(row_count(scores / shard.name) for shard in shards)
    if failed > max_error_rate * rows:
        raise TgoError(
            f"{failed} of {rows} images could not be scored ({failed / rows:.1%}), more than score.max_error_rate "
            f"({max_error_rate:.1%}) allows; all scores are written. The first: {_first_error(scores, shards)}. "
            "Fix the images, or raise max_error_rate to continue without them."
        )


def _first_error(scores: Path, shards: Sequence[Shard]) -> str:
    from tgo_pipeline.storage.tables import read_table

    for shard in shards:
        for row in read_table(scores / shard.name, columns=["sample_id", "error"]).to_pylist():
            if row["error"]:
                return f"{row['sample_id']} in {shard.name}, {row['error']}"
    return "none"
