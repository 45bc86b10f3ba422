"""Score everything that a call names, part by part, and go on where an earlier call ended."""

from __future__ import annotations

import importlib
import itertools
import logging
import os
import time
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.devices import prepare_torch
from tgo_pipeline.errors import TgoError
from tgo_pipeline.fingerprints import fingerprint as fingerprint_of
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.progress import Bar
from tgo_pipeline.rewards import REWARDS, fingerprint, load_reward
from tgo_pipeline.rewards.memory import groups
from tgo_pipeline.rewards.specs import Spec, canonical
from tgo_pipeline.rewards.stage import decoding_workers
from tgo_pipeline.scoring.call import Call
from tgo_pipeline.scoring.columns import Columns
from tgo_pipeline.scoring.inputs import open_inputs
from tgo_pipeline.scoring.parts import Missing, Part, listed_parts, streamed_part
from tgo_pipeline.scoring.prompts import OwnPrompts, PromptLines, Prompts, choose
from tgo_pipeline.scoring.results import Found, Results, held, parts_folder, schema
from tgo_pipeline.scoring.rows import Source
from tgo_pipeline.shards import Stop, explain_full_disk

if TYPE_CHECKING:
    import pyarrow as pa

    from tgo_pipeline.rewards.base import Reward
    from tgo_pipeline.rewards.scorer import ScoredBatch, Scorer

log = logging.getLogger("tgo")
ON_CPU, ON_GPU = 64, 1024
"""Pictures of a part, which is what a kill costs at most: minutes on a CPU, seconds on a GPU."""


@dataclass
class Outcome:
    """What a call did: pictures that it scored itself, the seconds for them, and whether OUT was written."""

    scored: int = 0
    seconds: float = 0.0
    written: bool = True


def score(call: Call) -> Outcome:
    """Write the scores of a call to `call.out`; nothing is scored again that an equal call has scored.

    Raises `TgoError` for what cannot be scored, as far as possible before a reward is loaded, and `Interrupted` after a
    signal.
    """
    specs = call.specs()
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
        return _Run(call, specs, sources, prompts, stop).run()


@dataclass
class _Open:
    """A part that is being scored: what was read of it, and what came back of that."""

    part: Part
    last: bool = False
    labels: list[tuple[str, str | None]] = field(default_factory=list)
    batches: list[ScoredBatch] = field(default_factory=list)
    ended: bool = False

    def samples(self, prompts: Prompts) -> Iterator[tuple[Path | bytes | None, str]]:
        """What the scorer reads, once."""
        for row, prompt in self.part.rows(prompts):
            self.labels.append((row.image, prompt))
            yield row.content, prompt or ""
        self.last = self.part.source.at_end(self.part.stop)
        self.ended = True

    def complete(self) -> bool:
        return self.ended and sum(len(batch.errors) for batch in self.batches) == len(self.labels)


class _Run:
    """One call at work."""

    def __init__(
        self, call: Call, specs: Mapping[str, Spec], sources: Sequence[Source], prompts: Prompts, stop: Stop
    ) -> None:
        self._call, self._specs, self._sources, self._prompts, self._stop = (
            call,
            specs,
            sources,
            prompts,
            stop,
        )
        self._runtime = RuntimeParams(
            device=call.device, score_batch_size=call.batch_size, workers=call.workers
        )
        self._device = prepare_torch(self._runtime)
        gpu = self._device.type == "cuda"
        dtype = ("fp16" if gpu else "fp32") if call.dtype == "auto" else call.dtype
        self._wanted = {
            column: fingerprint_of(reward=fingerprint(spec), dtype=dtype) for column, spec in specs.items()
        }
        part_rows = max(ON_GPU if gpu else ON_CPU, call.batch_size or 1)
        self._results = Results(call.out, call.inputs(), part_rows, overwrite=call.overwrite)
        self._results.check_columns(self._wanted)
        self._listed: dict[int, list[Part]] = {}
        self._loaded: dict[str, Reward] = {}
        self._unfinished = False
        self._pictures: int | None = None
        self._outcome = Outcome()

    def run(self) -> Outcome:
        """Score what is missing, then write OUT."""
        self._list()
        missing = self._survey()
        for names in groups({name: self._specs[name] for name in missing}, self._call.dtype, self._runtime):
            self._loaded.clear()
            parts = self._parts(opening=True)
            for wanted, some in itertools.groupby(parts, key=lambda part: self._missing(part, names)):
                if wanted:
                    self._score(wanted, some)
                else:
                    deque(some, maxlen=0)
        order = [part.fingerprint for part in self._parts()]
        if not order:
            raise TgoError(f"{' '.join(self._call.paths)} holds no picture.")
        self._outcome.written = self._results.finish(order, self._wanted)
        return self._outcome

    def _list(self) -> None:
        """Cut every source but streams into parts. Raises `TgoError` if pictures lack a prompt that they need."""
        missing, first = Missing(), 0
        for source in self._sources:
            if source.count is not None:
                size = self._results.part_rows
                self._listed[id(source)] = listed_parts(
                    source, source.count, self._prompts, size, first, missing
                )
                first += source.count
        if missing.count:
            self._check_unneeded(missing, first)
        if len(self._listed) == len(self._sources):
            self._prompts.finish(first)

    def _check_unneeded(self, missing: Missing, count: int) -> None:
        """Raise `TgoError` unless no reward looks at the prompt."""
        needing = [name for name, spec in self._specs.items() if _needs_prompt(spec)]
        if needing:
            raise TgoError(
                f"{missing.count:,} of {count:,} images have no prompt, which {', '.join(needing)} needs: "
                f"{', '.join(missing.examples)}{', ...' if missing.count > len(missing.examples) else ''}; "
                f"{self._prompts.advice}."
            )

    def _parts(self, *, opening: bool = False) -> Iterator[Part]:
        """Every part in order. Of a stream only those that are scored already, unless it may be opened."""
        for source in self._sources:
            if source.count is None:
                yield from self._streamed(source, opening)
            else:
                yield from self._listed[id(source)]

    def _streamed(self, source: Source, opening: bool) -> Iterator[Part]:
        size = self._results.part_rows
        for start in itertools.count(0, size):
            part = streamed_part(source, start, size, self._prompts)
            found = self._results.find(part.fingerprint, self._wanted)
            if found is None and not opening:
                self._unfinished = True
                return
            if found is None and source.at_end(start):
                return
            yield part
            if found.last if found else source.at_end(start + size):
                return

    def _missing(self, part: Part, names: Sequence[str]) -> tuple[str, ...]:
        found = self._results.find(part.fingerprint, self._wanted)
        return tuple(name for name in names if found is None or name not in found.rewards)

    def _survey(self) -> list[str]:
        """The rewards that any part lacks; says how much there is to do."""
        names = list(self._wanted)
        lacking = [(part, self._missing(part, names)) for part in self._parts()]
        waiting = [part for part, missing in lacking if missing]
        pictures = sum(part.stop - part.start for part in waiting)
        rest = ", and a stream to its end" if self._unfinished else ""
        log.info(
            "%s: %d parts done, %d to do (%s images)%s",
            *(self._call.out, len(lacking) - len(waiting), len(waiting), f"{pictures:,}", rest),
        )
        self._pictures = None if self._unfinished else pictures
        return [name for name in names if self._unfinished or any(name in missing for _, missing in lacking)]

    def _score(self, names: Sequence[str], parts: Iterable[Part]) -> None:
        """Score parts that lack the same rewards; the pictures of the next are decoded during one."""
        opened: deque[_Open] = deque()

        def samples() -> Iterator[Iterator[tuple[Path | bytes | None, str]]]:
            for part in parts:
                opened.append(_Open(part))
                yield opened[-1].samples(self._prompts)

        with self._scorer(names) as scorer, Bar("scoring", self._pictures) as bar:
            started_s = time.monotonic()
            for _, batch in scorer.stream_parts(samples()):
                while opened[0].complete():
                    self._write(opened.popleft(), names)
                opened[0].batches.append(batch)
                bar.advance(len(batch.errors))
                self._outcome.seconds += time.monotonic() - started_s
                started_s = time.monotonic()
            while opened:
                self._write(opened.popleft(), names)

    def _scorer(self, names: Sequence[str]) -> Scorer:
        from tgo_pipeline.rewards.scorer import Scorer

        for name in names:
            if name not in self._loaded:
                log.info("loading %s", name)
                self._loaded[name] = load_reward(
                    self._specs[name], device=self._device, dtype=self._call.dtype
                )
        workers = decoding_workers(self._runtime, self._device.type)
        rewards = {name: self._loaded[name] for name in names}
        return Scorer(rewards, batch_size=self._call.batch_size, workers=workers)

    def _write(self, done: _Open, names: Sequence[str]) -> None:
        kept = self._results.find(done.part.fingerprint, self._wanted)
        table = _table(done, names, kept)
        described = {
            name: {"fingerprint": self._wanted[name], **_described(self._loaded[name])} for name in names
        }
        rewards = {**(kept.rewards if kept else {}), **described}
        self._results.write(done.part.fingerprint, table, rewards, last=done.last)
        self._outcome.scored += table.num_rows
        failed = table.num_rows - table["error"].null_count
        rate = self._outcome.scored / max(self._outcome.seconds, 1e-9)
        log.info(
            "%s images scored%s, %.3g images/s",
            *(
                f"{self._outcome.scored:,}",
                f", {failed} of the last {table.num_rows} failed" if failed else "",
                rate,
            ),
        )
        self._stop.check()


def _needs_prompt(spec: Spec) -> bool:
    """Whether a reward looks at the prompt; loads only rewards of other authors to know it."""
    name = canonical(spec.reward)
    if name not in REWARDS:
        return load_reward(spec).needs_prompt
    module, kind = REWARDS[name].split(":")
    return getattr(importlib.import_module(module), kind).needs_prompt


def _described(reward: Reward) -> dict[str, Any]:
    """What a score's column means, for whoever opens the table later."""
    return {**reward.identity, "scale": reward.scale, "typical_range": reward.typical_range}


def _table(done: _Open, names: Sequence[str], kept: Found | None) -> pa.Table:
    """The rows of a part with its new columns beside those that were kept."""
    import numpy as np
    import pyarrow as pa

    arrays = {"image": [image for image, _ in done.labels], "prompt": [prompt for _, prompt in done.labels]}
    errors: list[str | None] = list(itertools.chain.from_iterable(batch.errors for batch in done.batches))
    columns: dict[str, Any] = {name: kept.table[name] for name in kept.rewards} if kept else {}
    for name in names:
        scores = np.concatenate([batch.columns[name] for batch in done.batches])
        columns[name] = pa.array(scores, mask=np.isnan(scores))
    if kept:
        errors = [_joined(old, new) for old, new in zip(kept.table["error"].to_pylist(), errors, strict=True)]
    return pa.table({**arrays, **columns, "error": errors}, schema=schema(list(columns)))


def _joined(old: str | None, new: str | None) -> str | None:
    """The reasons of two rewards, once if they are the same picture's."""
    reasons = [reason for reason in (old, new) if reason]
    return "; ".join(dict.fromkeys(reasons)) or None
