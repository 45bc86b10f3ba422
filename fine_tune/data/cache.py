"""The cache of encoded samples: VAE and text encoder run once, and need not be loaded again.

`train-00003-of-00032.safetensors` holds what the encoder makes of the images of the generation shard of that number;
`prompts-...` hold the distinct prompts of all shards, the empty prompt (for caption dropout) first.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fine_tune.data.texts import Texts
from fine_tune.distributed.processes import Group
from tgo_pipeline.errors import TgoError
from tgo_pipeline.executors import MakeWorker, Worker, execute, one_by_one
from tgo_pipeline.executors.aside import ahead
from tgo_pipeline.formats.limits import IMAGES as LIMITS
from tgo_pipeline.memory import Halving
from tgo_pipeline.reading.parquet import ROWS_AT_ONCE
from tgo_pipeline.storage import digests
from tgo_pipeline.storage.fingerprints import fingerprint
from tgo_pipeline.storage.locks import lock
from tgo_pipeline.storage.paths import parquet_files
from tgo_pipeline.storage.shards import Shard, Status, run_shards, state, stored_fingerprint
from tgo_pipeline.storage.writing import atomic

if TYPE_CHECKING:
    from torch import Tensor

    from fine_tune.policies.base import Encoder, Policy
    from tgo_pipeline.params import RuntimeParams

log = logging.getLogger("tgo")
VERSION = 2
SUFFIX = ".safetensors"
PROMPTS_PER_SHARD = 128
"""One prompt of FLUX takes 8 MB, and a shard is in memory at once: 1 GB."""
MOST_DECODERS = 8
"""Threads that decode: a VAE on a large GPU takes a hundredth of a second for an image, and zlib longer."""
IMAGES, PROMPTS = "train", "prompts"
_SHARD = re.compile(IMAGES + r"-(\d{5})-of-(\d{5})\.parquet")


@dataclass(frozen=True)
class EncodingSource:
    """What is encoded, and with which model.

    `size` is (width, height) in pixels, None the model's own; every prompt is encoded once with each of `prefixes`.
    """

    generations: Path
    model: str
    revision: str | None
    size: tuple[int | None, int | None]
    prefixes: tuple[str, ...] = ("",)
    policy: str | None = None
    """The model family, if the class of the pipeline does not say it."""


def plan(source: EncodingSource) -> list[Shard]:
    """The shards of the cache; reads file metadata and prompts, loads no model."""
    from fine_tune.policies import policy_identity
    from tgo_pipeline.generators import model_fingerprint
    from tgo_pipeline.generators.location import reads_as_clip
    from tgo_pipeline.generators.networks import clip_prompts

    model = model_fingerprint(source.model, source.revision)
    files = generation_shards(source.generations)
    own = policy_identity(source.model, source.revision, source.policy)
    common: dict[str, Any] = {"version": VERSION, "model": model, **own}
    shards = [
        Shard(
            IMAGES,
            index,
            len(files),
            fingerprint(**common, size=source.size, generations=stored_fingerprint(file), **LIMITS.identity),
            SUFFIX,
            digests.of(file),
        )
        for index, file in enumerate(files)
    ]
    chunks = prompt_chunks(source.generations, source.prefixes)
    as_clip = reads_as_clip(source.model, source.revision)
    for index, chunk in enumerate(chunks):
        mark = clip_prompts.version(chunk) if as_clip else {}
        content = fingerprint(**common, prompts=chunk, **mark)
        shards.append(Shard(PROMPTS, index, len(chunks), content, SUFFIX))
    return shards


def generation_shards(folder: Path) -> list[Path]:
    """The training shards in order. Raises `TgoError` unless they are complete."""
    files = [file for file in parquet_files(folder) if _SHARD.fullmatch(file.name)]
    if not files:
        raise TgoError(f"{folder} holds no generation shard: run the generate stage first.")
    count = len(files)
    expected = [f"{IMAGES}-{index:05d}-of-{count:05d}.parquet" for index in range(count)]
    if [file.name for file in files] != expected:
        raise TgoError(
            f"{folder} is incomplete ({count} shards, the last {files[-1].name}): run generate again."
        )
    return files


def prompt_chunks(generations: Path, prefixes: Sequence[str] = ("",)) -> list[list[str]]:
    """The empty prompt and the distinct prompts of all shards in alphabetical order, cut for one shard each.

    Every prompt is there with each of the prefixes before it.
    """
    from tgo_pipeline.storage.tables import read_columns

    # The bytes are checked when the images are read: a plan, also that of `tgo status`, reads no whole shard.
    table = read_columns(generation_shards(generations), ["prompt"], ["prompt"], check=False)
    distinct = Texts(table["prompt"]).distinct()
    prefixed = {prefix + prompt for prefix in prefixes for prompt in distinct}
    texts = ["", *sorted(prefixed - {""})]
    return [texts[start : start + PROMPTS_PER_SHARD] for start in range(0, len(texts), PROMPTS_PER_SHARD)]


def encode_folder(
    folder: Path,
    source: EncodingSource,
    planned: Sequence[Shard],
    runtime: RuntimeParams,
    group: Group | None = None,
) -> Status:
    """Bring the cache to its plan, each process of the group writing its share of the shards.

    Raises `TgoError` for a model that cannot be loaded or encoded with.
    """
    group = group or Group()
    make_worker = functools.partial(_make_worker, folder, source)
    if group.size > 1:
        _encode_together(folder, planned, make_worker, runtime, group)
    return group.on_main(
        lambda: run_shards(
            folder, planned, lambda waiting, stop: execute(waiting, stop, make_worker, runtime)
        )
    )


def _encode_together(
    folder: Path,
    planned: Sequence[Shard],
    make_worker: MakeWorker,
    runtime: RuntimeParams,
    group: Group,
) -> None:
    with contextlib.ExitStack() as held:
        group.on_main(lambda: held.enter_context(lock(folder)))
        waiting = group.on_main(lambda: [shard for shard in planned if state(folder, shard) != "done"])
        mine = group.share(waiting)
        with group.stop() as stop:
            group.agree(lambda: execute(mine, stop, make_worker, runtime) if mine else None)


def _make_worker(folder: Path, source: EncodingSource, runtime: RuntimeParams) -> Worker:
    from fine_tune.policies import policy_class
    from tgo_pipeline.executors.runtime import prepare_torch, share_of_cores
    from tgo_pipeline.generators import load_pipeline
    from tgo_pipeline.generators.long_prompts import warn_of_long
    from tgo_pipeline.generators.networks.parts import DENOISERS
    from tgo_pipeline.generators.sample import lay_out_networks, slice_decoder

    pipeline = load_pipeline(source.model, source.revision, prepare_torch(runtime), described=DENOISERS)
    slice_decoder(pipeline)
    lay_out_networks(pipeline)
    policy = policy_class(pipeline, source.policy)
    encoder = policy.encoder(pipeline, source.size)
    files = generation_shards(source.generations)
    _check_kind(files[0], policy)
    chunks = prompt_chunks(source.generations, source.prefixes)
    threads = min(MOST_DECODERS, share_of_cores(runtime))
    advice = "choose a smaller generate.width and height, or another device"
    images, prompts = (
        Halving(runtime.generate_batch_size, "runtime.generate_batch_size, for encoding", one, advice)
        for one in ("image", "prompt")
    )

    def write(shard: Shard) -> None:
        if shard.split == PROMPTS:
            if shard.index == 0:  # one worker says it of all
                warn_of_long(pipeline, list(itertools.chain(*chunks)))
            _write_prompts(folder / shard.name, shard, chunks[shard.index], encoder, prompts)
        else:
            _write_images(folder / shard.name, shard, files[shard.index], encoder, images, threads)
        log.info("encoded %s", folder / shard.name)

    return one_by_one(write)


def _check_kind(table: Path, policy: type[Policy[Any]]) -> None:
    from tgo_pipeline.storage.tables import sample_column

    if (sample_column(table) == "video") != policy.of_clips:
        has, wants = ("images", "clips") if policy.of_clips else ("clips", "images")
        raise TgoError(
            f"{table.parent} holds {has}, and the model's family {policy.__name__} is trained on {wants}: take a model "
            "that draws what there is, or run generate again with this one."
        )


def _write_prompts(path: Path, shard: Shard, prompts: Sequence[str], encoder: Encoder, size: Halving) -> None:
    tensors = _joined(list(size.batches(prompts, encoder.prompts)), PROMPTS)
    _write(path, tensors, shard.mark.entries() | {"prompts": json.dumps(prompts)})


def _write_images(
    path: Path, shard: Shard, source: Path, encoder: Encoder, size: Halving, threads: int
) -> None:
    rows: list[tuple[str, str]] = []
    parts = list(size.batches(_decoded(source, rows, threads, size.size), encoder.images))
    metadata = {
        **shard.mark.entries(),
        "sample_ids": json.dumps([sample_id for sample_id, _ in rows]),
        "prompts": json.dumps([prompt for _, prompt in rows]),
    }
    _write(path, _joined(parts, "images"), metadata)


def _decoded(source: Path, rows: list[tuple[str, str]], threads: int, most: int) -> Iterator[Any]:
    """The images or clips of a shard, the next `most` of them by threads; `rows` gets sample and prompt of each."""
    for row, image, reason in ahead(_read, _undecoded(source), threads, most):
        if image is None:  # it has no score and so no label either
            log.warning("%s: %s", row["sample_id"], reason)
            continue
        rows.append((row["sample_id"], row["prompt"]))
        yield image


def _undecoded(source: Path) -> Iterator[dict[str, Any]]:
    from tgo_pipeline.storage.tables import generations_schema, read_table, sample_column

    column = sample_column(source)
    table = read_table(source, generations_schema(column), ["sample_id", "prompt", column])
    for batch in table.to_batches(max_chunksize=ROWS_AT_ONCE):
        yield from batch.to_pylist()


def _read(row: dict[str, Any]) -> tuple[dict[str, Any], Any, str]:
    """A row with its image, or its clip uint8 (T, H, W, 3); or without one and the reason."""
    from tgo_pipeline.formats.video_files import UnreadableVideo, read_frames
    from tgo_pipeline.rewards.engine.decode import UnreadableImage, decode

    try:
        if "video" in row:
            return row, read_frames((row["video"] or {}).get("bytes"))[0], ""
        return row, decode((row["image"] or {}).get("bytes")), ""
    except (UnreadableImage, UnreadableVideo) as error:
        return row, None, str(error)


def _joined(parts: Sequence[dict[str, Tensor]], what: str) -> dict[str, Tensor]:
    import torch

    from fine_tune.data.tensors import of_one_length

    found = {name: [part[name] for part in parts] for name in (parts[0] if parts else {})}
    if what == PROMPTS:
        found = {name: of_one_length(values, 1) for name, values in found.items()}
    tensors = {name: torch.cat(values) for name, values in found.items()}
    for name, values in tensors.items():
        if not torch.isfinite(values).all():
            raise TgoError(
                f"the model encodes {what} to {name} with NaN or infinity, which nothing can be trained on: its "
                f"{'text encoders are' if what == PROMPTS else 'VAE is'} damaged; copy the model again."
            )
    return tensors


def _write(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str]) -> None:
    from fine_tune.data.tensors import write_tensors

    with atomic(path) as temporary:
        write_tensors(tensors, temporary, metadata)
