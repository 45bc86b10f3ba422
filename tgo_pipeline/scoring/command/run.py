"""Score everything that a call names, part by part, and go on where an earlier call ended."""

from __future__ import annotations

import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.devices import keep_freed_memory
from tgo_pipeline.errors import TgoError
from tgo_pipeline.executors.progress import Bar
from tgo_pipeline.executors.runtime import prepare_torch
from tgo_pipeline.images.columns import Columns
from tgo_pipeline.images.inputs import open_inputs
from tgo_pipeline.images.rows import Source
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.rewards import fingerprint, load_reward, resolve_precision
from tgo_pipeline.scoring.command.kept import Found, ScoredRows, as_keys, join_reasons, row_key
from tgo_pipeline.scoring.command.options import Call
from tgo_pipeline.scoring.command.output import as_table, images
from tgo_pipeline.scoring.command.parts import Part
from tgo_pipeline.scoring.command.plan import Plan
from tgo_pipeline.scoring.command.prompts import OwnPrompts, PromptLines, Prompts, choose
from tgo_pipeline.scoring.command.results import Results, held, parts_folder
from tgo_pipeline.scoring.memory import groups
from tgo_pipeline.scoring.stage import decoding_workers
from tgo_pipeline.storage.fingerprints import fingerprint as fingerprint_of
from tgo_pipeline.storage.shards import Stop, explain_full_disk

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from tgo_pipeline.rewards.base import Reward
    from tgo_pipeline.rewards.engine.scorer import ScoredBatch, Scorer

log = logging.getLogger("tgo")
ON_CPU, ON_GPU = 64, 1024
"""Pictures of a part, which is what a kill costs at most: minutes on a CPU, seconds on a GPU."""
Samples = Iterator[tuple[Path | bytes | None, str]]


@dataclass
class Outcome:
    """What a call did: pictures that it scored itself, the seconds for them, and whether OUT was written."""

    scored: int = 0
    seconds: float = 0.0
    written: bool = True

    @property
    def images_per_s(self) -> float:
        """The speed without the loading of rewards; 0 if nothing was scored."""
        return self.scored / self.seconds if self.seconds else 0.0


def score(call: Call) -> Outcome:
    """Write the scores of a call to `call.out`; nothing is scored again that an equal call has scored.

    Raises `TgoError` for what cannot be scored, as far as possible before a reward is loaded, and `Interrupted` after a
    signal.
    """
    call.specs()
    call.check_out()
    columns = Columns(call.image_column, call.prompt_column)
    prompts = choose(call.prompts, call.prompt, columns)
    skip = {os.path.abspath(path) for path in (call.out, parts_folder(call.out))}
    sources = open_inputs(call.paths, replace(columns, prompts=isinstance(prompts, OwnPrompts)), skip)
    if isinstance(prompts, PromptLines) and any(source.count is None for source in sources):
        raise TgoError(
            f"--prompts {call.prompts} gives prompts by line, and how many pictures a stream has is not known "
            "beforehand: name its column with --prompt-column, or give one --prompt."
        )
    with explain_full_disk(call.out), held(call.out), Stop() as stop:
        return _Run(call, sources, prompts, stop).run()


@dataclass
class _Open:
    """A part that is being scored: what was read of it, and what came back of that.

    `sent` are the places of the rows that the rewards get; the scores of the others are there already.
    """

    part: Part
    last: bool = False
    labels: list[tuple[str, str | None]] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)
    sent: list[int] = field(default_factory=list)
    batches: list[ScoredBatch] = field(default_factory=list)
    ended: bool = False

    def complete(self) -> bool:
        return self.ended and sum(len(batch.errors) for batch in self.batches) == len(self.sent)

    def scores(self, name: str) -> np.ndarray:
        """What a reward gave to the rows that it got, float32, NaN where it could not."""
        import numpy as np

        return np.concatenate([np.empty(0, np.float32), *(batch.columns[name] for batch in self.batches)])

    def errors(self) -> list[str | None]:
        """Why a row could not be scored now."""
        found: list[str | None] = [None] * len(self.labels)
        reasons = itertools.chain.from_iterable(batch.errors for batch in self.batches)
        for place, reason in zip(self.sent, reasons, strict=True):
            found[place] = reason
        return found


class _Run:
    """One call at work."""

    def __init__(self, call: Call, sources: Sequence[Source], prompts: Prompts, stop: Stop) -> None:
        self._call, self._stop = call, stop
        self._specs = call.specs()
        self._runtime = RuntimeParams(
            device=call.device, score_batch_size=call.batch_size, workers=call.workers
        )
        self._device = prepare_torch(self._runtime)
        if self._device.type == "cpu":
            keep_freed_memory()
        gpu = self._device.type == "cuda"
        dtype = resolve_precision(call.dtype, self._device)
        self._wanted = {
            column: fingerprint_of(reward=fingerprint(spec), dtype=dtype)
            for column, spec in self._specs.items()
        }
        part_rows = max(ON_GPU if gpu else ON_CPU, call.batch_size or 1)
        self._results = Results(call.out, call.inputs(), part_rows, overwrite=call.overwrite)
        self._results.check_columns(self._wanted)
        self._plan = Plan(sources, prompts, self._results, self._specs, self._wanted)
        self._loaded: dict[str, Reward] = {}
        self._outcome = Outcome()

    def run(self) -> Outcome:
        """Score what is missing, then write OUT; where memory is short, one group of rewards after another."""
        missing, pictures = self._plan.survey()
        for names in groups({name: self._specs[name] for name in missing}, self._call.dtype, self._runtime):
            self._load(names)
            with Bar("scoring", pictures) as bar:
                self._score_group(names, bar)
        parts = list(self._plan.parts())
        if not parts:
            raise TgoError(f"{' '.join(self._call.paths)} holds no picture.")
        self._outcome.written = self._results.finish(parts, self._wanted)
        return self._outcome

    def _score_group(self, names: Sequence[str], bar: Bar) -> None:
        """Score every part with those of the rewards that it lacks."""
        parts = self._plan.parts(opening=True)
        for lacking, some in itertools.groupby(parts, lambda part: self._plan.missing(part, names)):
            if lacking:
                self._score(lacking, some, bar)
            else:
                deque(some, maxlen=0)

    def _score(self, names: Sequence[str], parts: Iterable[Part], bar: Bar) -> None:
        """Score parts that lack the same rewards; the pictures of the next are decoded during one."""
        opened: dict[int, _Open] = {}
        with self._scorer(names) as scorer:
            started_s = time.monotonic()
            for number, batch in scorer.stream_parts(self._samples(names, parts, opened, bar)):
                self._outcome.seconds += time.monotonic() - started_s
                started_s = time.monotonic()
                bar.advance(len(batch.errors))
                opened[number].batches.append(batch)
                self._write_complete(opened, names, bar)
            self._write_complete(opened, names, bar)

    def _samples(
        self, names: Sequence[str], parts: Iterable[Part], opened: dict[int, _Open], bar: Bar
    ) -> Iterator[Samples]:
        """What the scorer reads, part by part; keeps in `opened`, under their numbers, what is under way."""
        for number, part in enumerate(parts):
            self._write_complete(opened, names, bar)  # no batch will come of a part whose rows are all kept
            opened[number] = _Open(part)
            yield self._read(opened[number], names, bar)

    def _read(self, opened: _Open, names: Sequence[str], bar: Bar) -> Samples:
        """The rows of a part that lack one of the rewards; they get all of `names`, and keep what they have."""
        scored, part = self._results.rows(self._wanted), opened.part
        for row, prompt in part.rows():
            if prompt is None:
                self._plan.check_unneeded("an image has", [row.image])
            opened.labels.append((row.image, prompt))
            opened.keys.append(row_key(row.content, prompt))
            if len(scored) and scored.know(as_keys(opened.keys[-1:]), names).all():
                if part.keys is None:  # it was counted among those to do
                    bar.advance()
                continue
            opened.sent.append(len(opened.labels) - 1)
            yield row.content, prompt or ""
        opened.last = opened.part.source.at_end(opened.part.stop)
        opened.ended = True

    def _load(self, names: Sequence[str]) -> None:
        """Load these rewards in place of those that are loaded."""
        self._loaded.clear()
        for name in names:
            log.info("loading %s", name)
            self._loaded[name] = load_reward(self._specs[name], device=self._device, dtype=self._call.dtype)
            self._stop.check()

    def _scorer(self, names: Sequence[str]) -> Scorer:
        from tgo_pipeline.rewards.engine.scorer import Scorer

        rewards = {name: self._loaded[name] for name in names}
        workers = decoding_workers(self._runtime, self._device.type)
        return Scorer(rewards, batch_size=self._call.batch_size, workers=workers)

    def _write_complete(self, opened: dict[int, _Open], names: Sequence[str], bar: Bar) -> None:
        """Write the parts that are complete, in their order: a kill then leaves no gap in a stream."""
        while opened and opened[first := min(opened)].complete():
            self._write(opened.pop(first), names, bar)

    def _write(self, done: _Open, names: Sequence[str], bar: Bar) -> None:
        """Keep a finished part, beside those of its columns that earlier calls computed."""
        kept = self._results.find(done.part, self._wanted)
        if kept and kept.table["image"].to_pylist() != [image for image, _ in done.labels]:
            raise self._results.changed()
        table = _table(done, names, kept, self._results.rows(self._wanted))
        rewards = {
            name: {"fingerprint": self._wanted[name], **self._loaded[name].description} for name in names
        }
        earlier = kept.rewards if kept else {}
        self._results.write(
            *(done.part.fingerprint, table, {**earlier, **rewards}), keys=as_keys(done.keys), last=done.last
        )
        self._outcome.scored += len(done.sent)
        if not bar.shown:
            failed = sum(reason is not None for reason in done.errors())
            among = f", {failed} of the last {len(done.sent)} failed" if failed else ""
            rate = self._outcome.images_per_s
            log.info("%s scored%s, %.3g images/s", images(self._outcome.scored), among, rate)
        self._stop.check()


def _table(done: _Open, names: Sequence[str], kept: Found | None, scored: ScoredRows) -> pa.Table:
    """The rows of a part: columns that were kept, and new ones, in which a score that was there is never replaced."""
    import numpy as np

    keys, sent = as_keys(done.keys), np.array(done.sent, dtype=np.intp)
    columns: dict[str, Any] = {name: kept.table[name] for name in kept.rewards} if kept else {}
    for name in names:
        new, column = ~scored.know(keys[sent], [name]), scored.scores(keys, name)
        column[sent[new]] = done.scores(name)[new]
        columns[name] = column
    stored = kept.table["error"].to_pylist() if kept else [None] * len(keys)
    errors = [
        join_reasons(*reasons) for reasons in zip(stored, scored.errors(keys), done.errors(), strict=True)
    ]
    return as_table(done.labels, columns, errors)
