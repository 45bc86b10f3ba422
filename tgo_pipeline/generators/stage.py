"""Sample a folder of generation shards from prompts: the same plan serves training data and evaluation."""

from __future__ import annotations

import functools
import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tgo_pipeline.executors import Ending, Worker, execute, never, shares_folders
from tgo_pipeline.executors.aside import Aside
from tgo_pipeline.generators.guidance import load_guided
from tgo_pipeline.generators.loading import load_pipeline
from tgo_pipeline.generators.location import (
    guided_fingerprint,
    model_fingerprint,
    reads_as_clip,
    sampling_hints,
)
from tgo_pipeline.generators.networks import clip_prompts
from tgo_pipeline.generators.parts import Parts
from tgo_pipeline.generators.sample import Sampler, compile_network, lay_out_networks, stored
from tgo_pipeline.params import GenerateParams, RuntimeParams
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.storage.chunks import chunks, require_few
from tgo_pipeline.storage.fingerprints import fingerprint
from tgo_pipeline.storage.shards import Interrupted, Shard, Status, run_shards
from tgo_pipeline.storage.writing import atomic

if TYPE_CHECKING:
    import pyarrow as pa
    import torch

log = logging.getLogger("tgo")
VERSION = 1
MOST_ENCODERS = 4
"""Threads that write PNG: a model of few steps draws 512 px in a hundredth of a second, and zlib takes as long."""


class PlannedImage(NamedTuple):
    """One image to draw."""

    sample_id: str
    prompt_id: str
    prompt: str
    index: int
    seed: int


class SamplingModel(NamedTuple):
    """What draws: a model and the parameters that it samples with."""

    model: str
    revision: str | None
    params: GenerateParams


def rows(
    prompts: Sequence[tuple[str, str]], *, images_per_prompt: int, seed: int, purpose: str
) -> list[PlannedImage]:
    """One row per image of each (prompt_id, prompt), with the seed derived from (seed, sample id, purpose).

    Raises `TgoError` for more than a folder can have.
    """
    require_few(len(prompts), images_per_prompt)
    return [
        PlannedImage(sample_id, prompt_id, prompt, index, derive_seed(seed, sample_id, purpose))
        for prompt_id, prompt in prompts
        for index in range(images_per_prompt)
        for sample_id in [f"{prompt_id}-{index:04d}"]
    ]


def plan(
    prompts: Sequence[tuple[str, str]],
    *,
    split: str,
    model: str,
    revision: str | None,
    params: GenerateParams,
    images_per_prompt: int,
    seed: int,
    purpose: str,
) -> list[Shard]:
    """The shards that `generate_folder` writes for the same arguments; reads the model's files, loads nothing."""
    todo = rows(prompts, images_per_prompt=images_per_prompt, seed=seed, purpose=purpose)
    return _plan(chunks(todo, params.shard_size), split, SamplingModel(model, revision, params))


def generate_folder(
    folder: Path,
    prompts: Sequence[tuple[str, str]],
    *,
    split: str,
    model: str,
    revision: str | None,
    params: GenerateParams,
    images_per_prompt: int,
    seed: int,
    purpose: str,
    runtime: RuntimeParams,
) -> Status:
    """Draw `images_per_prompt` images of each (prompt_id, prompt) into shards of `tables.GENERATIONS`, or clips into
    those of `tables.VIDEO_GENERATIONS`.

    Only missing and stale shards are drawn. An image depends on the model, its prompt, the sampling parameters and
    (seed, sample id, purpose): not on batches, processes or interruptions, up to rounding of the last bit of a pixel.
    Raises `TgoError` if the model cannot be loaded or sampled.
    """
    todo = rows(prompts, images_per_prompt=images_per_prompt, seed=seed, purpose=purpose)
    parts = chunks(todo, params.shard_size)
    source = SamplingModel(model, revision, params)
    make_worker = functools.partial(_make_worker, folder, parts, source)
    return run_shards(
        folder,
        _plan(parts, split, source),
        lambda waiting, stop: execute(waiting, stop, make_worker, runtime),
        together=shares_folders(runtime),
    )


def _plan(parts: Sequence[list[PlannedImage]], split: str, source: SamplingModel) -> list[Shard]:
    params = source.params
    common = {
        "version": VERSION,
        "model": _model_fingerprint(source),
        "sampling": [params.guidance_scale, params.steps, params.width, params.height],
    }
    if params.precision != "fp32":
        common["precision"] = params.precision
    if params.frames or params.fps:
        common["clips"] = [params.frames, params.fps]
    as_clip = reads_as_clip(source.model, source.revision)
    marks = [clip_prompts.version(row.prompt for row in part) if as_clip else {} for part in parts]
    return [
        Shard(split, index, len(parts), fingerprint(rows=part, **common, **mark))
        for index, (part, mark) in enumerate(zip(parts, marks, strict=True))
    ]


def _model_fingerprint(source: SamplingModel) -> str:
    guidance = source.params.guidance
    if guidance is None:
        return model_fingerprint(source.model, source.revision)
    return guided_fingerprint(source.model, source.revision, guidance)


def _load(source: SamplingModel, device: torch.device) -> Any:
    guidance, precision = source.params.guidance, source.params.precision
    if guidance is None:
        return load_pipeline(source.model, source.revision, device, precision=precision)
    return load_guided(source.model, source.revision, guidance, device, precision)


def _make_worker(
    folder: Path, parts: Sequence[list[PlannedImage]], source: SamplingModel, runtime: RuntimeParams
) -> Worker:
    from tgo_pipeline.executors.runtime import prepare_torch, share_of_cores

    pipeline = _load(source, prepare_torch(runtime))
    lay_out_networks(pipeline)
    if runtime.compile:
        compile_network(pipeline)
    sampler = Sampler(pipeline, source.params, runtime.generate_batch_size, sampling_hints(source.model))
    threads = min(MOST_ENCODERS, share_of_cores(runtime))

    def work(shards: Iterable[Shard], is_ending: Ending = never, /) -> Iterator[Shard]:
        """Each shard is finished while the next is drawn, and yielded after that."""
        drawn: Shard | None = None
        with ThreadPoolExecutor(threads) as encoders, Aside() as aside:
            for shard in shards:
                if shard.index == 0:  # one worker says it of all
                    sampler.warn_of_long([row.prompt for part in parts for row in part])
                drawing = _Drawing(folder, shard, parts[shard.index], source, encoders, sampler.fps)
                _draw(drawing, sampler, aside, is_ending)
                if drawn is not None:
                    yield drawn
                drawn = shard
            aside.wait()
            if drawn is not None:
                yield drawn

    return work


class _Drawing:
    """A shard that is being drawn: what is finished of it, and its file when all of it is."""

    def __init__(
        self,
        folder: Path,
        shard: Shard,
        rows: Sequence[PlannedImage],
        source: SamplingModel,
        encoders: ThreadPoolExecutor,
        fps: float | None,
    ) -> None:
        """`fps` is that of clips; None for images."""
        self.rows = rows
        self._path, self._shard, self._source, self._encoders = folder / shard.name, shard, source, encoders
        self._fps, self._schema = fps, _schema(fps)
        self._started_s = time.monotonic()
        self._finished = Parts(self._path, shard.mark, self._schema)
        self.adopted = len(self._finished.records)
        """Images of an earlier run."""

    def add(self, rows: Sequence[PlannedImage], drawn: Sequence[Any]) -> None:
        """Encode a batch and keep it; the last one writes the shard."""
        columns = self._encoders.map(lambda row, each: stored(row.sample_id, each, self._fps), rows, drawn)
        self._finished.add(
            [_record(row, found, self._source) for row, found in zip(rows, columns, strict=True)]
        )
        if len(self._finished.records) == len(self.rows):
            self._write()

    def store(self) -> None:
        """Keep what is finished for another run."""
        self._finished.store()

    def _write(self) -> None:
        import pyarrow as pa

        from tgo_pipeline.storage.tables import write_table

        with atomic(self._path) as temporary:
            table = pa.Table.from_pylist(self._finished.records, schema=self._schema)
            write_table(table, temporary, self._shard.mark.entries() | {"failed": 0})
        self._finished.clear()
        count, took_s = len(self.rows) - self.adopted, time.monotonic() - self._started_s
        what = "images" if self._fps is None else "clips"
        log.info("%s: %d %s in %.1f s", self._shard.name, count, what, took_s)


def _schema(fps: float | None) -> pa.Schema:
    from tgo_pipeline.storage.tables import generations_schema

    return generations_schema("image" if fps is None else "video")


def _draw(drawing: _Drawing, sampler: Sampler, aside: Aside, is_ending: Ending) -> None:
    """Draw what is not finished; `aside` encodes and writes, no more than a batch behind.

    Raises `Interrupted` after a batch if the run is to end; the batches are stored.
    """
    from tgo_pipeline.executors.progress import Bar

    rows, done = drawing.rows, drawing.adopted
    if done == len(rows):
        aside.do(lambda: drawing.add([], []))
    with Bar("generate", len(rows)) as bar:
        bar.advance(done)
        for batch in sampler.batches([row.prompt for row in rows], [row.seed for row in rows], done):
            drawn = rows[done : done + len(batch)]
            aside.do(functools.partial(drawing.add, drawn, batch))
            done += len(batch)
            bar.advance(len(batch))
            if is_ending() and done < len(rows):
                aside.wait()
                drawing.store()
                raise Interrupted


def _record(row: PlannedImage, columns: dict[str, Any], source: SamplingModel) -> dict[str, Any]:
    return (
        row._asdict()
        | columns
        | {
            "model": source.model,
            "revision": source.revision,
            "guidance_scale": source.params.guidance_scale,
            "steps": source.params.steps,
        }
    )
