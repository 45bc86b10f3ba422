"""Score everything that a call names, part by part, and continue where an earlier call ended."""

from __future__ import annotations

import functools
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from tgo_pipeline.devices import cores, resolve_device
from tgo_pipeline.errors import TgoError
from tgo_pipeline.executors import Ending, Worker, execute, never
from tgo_pipeline.executors.aside import ahead
from tgo_pipeline.executors.progress import Bar
from tgo_pipeline.formats.limits import IMAGES
from tgo_pipeline.images import Columns, ImageSource
from tgo_pipeline.images import open as open_images
from tgo_pipeline.images.base import Content, Row, are_clips
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.rewards import fingerprint, resolve_precision
from tgo_pipeline.rewards.engine.images import StoredClip
from tgo_pipeline.rewards.specs import columns
from tgo_pipeline.scoring.columns import ColumnScorer, ColumnTask, score_table
from tgo_pipeline.scoring.command.kept import as_keys, join_reasons, row_key
from tgo_pipeline.scoring.command.options import Call
from tgo_pipeline.scoring.command.parts import Part
from tgo_pipeline.scoring.command.plan import CallPlan, images
from tgo_pipeline.scoring.command.prompts import OwnPrompts, PromptLines, PromptLookup, choose
from tgo_pipeline.scoring.command.results import Results, held, parts_folder
from tgo_pipeline.scoring.memory import groups
from tgo_pipeline.scoring.stage import FRAMES
from tgo_pipeline.storage.disk import explain_disk
from tgo_pipeline.storage.fingerprints import fingerprint as fingerprint_of
from tgo_pipeline.storage.shards import Shard, Stop, Waiting

if TYPE_CHECKING:
    from tgo_pipeline.rewards.engine.scorer import ScoredBatch

log = logging.getLogger("tgo")
ON_CPU, ON_GPU = 64, 1024
"""Images of a part, which is what a kill costs at most: minutes on a CPU, seconds on a GPU."""
NO_PROMPT = "it has no prompt"
MOST_HASHERS, HASHED_AHEAD = 4, 32
"""Threads that hash images of tables, some 3,000 a second each where they have 400 kB, and how many ahead."""


@dataclass
class Outcome:
    """What a call did: images that it scored itself, the seconds for them, and whether OUT was written."""

    scored: int = 0
    seconds: float = 0.0
    written: bool = True

    @property
    def images_per_s(self) -> float:
        """The speed without the loading of rewards; 0 if nothing was scored."""
        return self.scored / self.seconds if self.seconds else 0.0


def score(call: Call) -> Outcome:
    """Write the scores of a call to `call.table`; nothing is scored again that an equal call has scored.

    Raises `TgoError` for what cannot be scored, as far as possible before a reward is loaded, and `Interrupted` after a
    signal.
    """
    call.specs()
    call.check_out()
    call.runtime()
    sources, prompts = _inputs(call)
    if isinstance(prompts, PromptLines) and any(source.count is None for source in sources):
        raise TgoError(
            f"--prompts {call.prompts} gives prompts by line, and how many images a stream has is not known "
            "beforehand: name its column with --prompt-column, or give one --prompt."
        )
    call.check_kind(are_clips(sources))
    with explain_disk(call.table), held(call.table), Stop() as stop:
        return _Run(call, sources, prompts, stop).run()


def _inputs(call: Call) -> tuple[list[ImageSource], PromptLookup]:
    """What a call scores."""
    named = Columns(call.image_column, call.prompt_column)
    prompts = choose(call.prompts, call.prompt, named)
    return _opened(call, replace(named, prompts=isinstance(prompts, OwnPrompts))), prompts


def open_sources(call: Call) -> list[ImageSource]:
    """The images of a call, in the order of its rows, without their prompts."""
    return _opened(call, Columns(call.image_column, prompts=False))


def _opened(call: Call, named: Columns) -> list[ImageSource]:
    skip = {os.path.abspath(path) for path in (*call.written, parts_folder(call.table))}
    return open_images(call.paths, named, skip)


class _Run:
    """One call at work."""

    def __init__(self, call: Call, sources: Sequence[ImageSource], prompts: PromptLookup, stop: Stop) -> None:
        self._call, self._stop = call, stop
        self._columns = columns(call.specs())
        self._frames = (call.frames or FRAMES) if are_clips(sources) else None
        self._runtime = call.runtime()
        IMAGES.set(call.max_image_megapixels, call.image_memory_gb)
        device = resolve_device(call.device)
        dtype = resolve_precision(call.dtype, device)
        self.wanted = {
            column: fingerprint_of(reward=fingerprint(spec), dtype=dtype, **self._of_clips, **IMAGES.identity)
            for column, spec in self._columns.items()
        }
        part_rows = max(ON_GPU if device.type == "cuda" else ON_CPU, call.batch_size or 1)
        self.results = Results(call.table, call.inputs(), part_rows, overwrite=call.overwrite)
        self.results.check_columns(self.wanted)
        self.plan = CallPlan(sources, prompts, self.results, self._columns, self.wanted)
        self._outcome = Outcome()

    def run(self) -> Outcome:
        """Score what is missing, then write OUT; where memory is short, one group of rewards after another."""
        missing, count = self.plan.survey()
        for names in groups({name: self._columns[name] for name in missing}, self._call.dtype, self._runtime):
            if self._runtime.processes > 1 or self._runtime.executor != "local":
                self._share_out(names)
            else:
                self._score(names, count)
        parts = list(self.plan.parts())
        if not parts:
            raise TgoError(f"{' '.join(self._call.paths)} holds no image.")
        self._outcome.written = self.results.finish(parts, self.wanted)
        return self._outcome

    @property
    def _of_clips(self) -> dict[str, int]:
        """What the scores of clips depend on besides."""
        return {} if self._frames is None else {"frames": self._frames}

    def scored(self, content: Content) -> Content | StoredClip:
        """What rewards are given of a row: an image, or a clip."""
        return content if self._frames is None else StoredClip(content)

    def _score(self, names: Sequence[str], count: int | None) -> None:
        """Score every part for those of the columns that it lacks."""
        scorer = ColumnScorer(self._columns, self._call.dtype, self._runtime, self._frames)
        for name in dict.fromkeys(self._columns[name].column for name in names):
            log.info("loading %s", name)
            scorer.load(name)
            self._stop.check()
        with Bar("scoring", count) as bar:
            tasks = (_PartTask(self, part, names, bar.advance) for part in self.plan.parts(opening=True))
            write = self._writer(scorer, says=not bar.shown)
            for _ in scorer.run((task for task in tasks if task.missing), write):
                pass

    def _writer(self, scorer: ColumnScorer, *, says: bool) -> Callable[[_PartTask], _PartTask]:
        """Writes a finished part and counts it; `says` so in a line."""
        before_s = self._outcome.seconds

        def write(task: _PartTask) -> _PartTask:
            rewards = {
                name: {"fingerprint": self.wanted[name], **about}
                for name, about in scorer.describe(task.missing).items()
            }
            task.write(rewards)
            self._outcome.seconds = before_s + scorer.seconds
            self._outcome.scored += len(task.sent)
            if says:
                self._log(task)
            self._stop.check()
            return task

        return write

    def _share_out(self, names: Sequence[str]) -> None:
        """Let the processes of an executor score the parts that lack one of these columns."""
        if self.plan.streaming:
            raise TgoError(
                f"{' '.join(self._call.paths)}: a stream is read in one process, from its begin to its end. Leave out "
                "--processes and --executor, or name files instead."
            )
        self.results.begin()
        parts = [part for part in self.plan.parts() if self.lacks(part, names)]
        waiting = [PartShard("part", place, len(parts), part.fingerprint) for place, part in enumerate(parts)]
        count, started_s = sum(part.stop - part.start for part in parts), time.monotonic()
        make_worker = functools.partial(_make_worker, replace(self._call, overwrite=False), names)
        execute(Waiting(parts_folder(self._call.table), waiting), self._stop, make_worker, self._runtime)
        left = sum(self.lacks(part, names) for part in parts)
        if left:
            raise TgoError(
                f"{left} of {len(parts)} parts were not scored, although --executor {self._call.executor} raised no "
                "error. What is finished is kept: call it again, or choose another executor."
            )
        self._outcome.scored += count
        self._outcome.seconds += time.monotonic() - started_s

    def lacks(self, part: Part, names: Sequence[str]) -> bool:
        """Whether a part has to be scored for one of these columns."""
        found = self.results.find(part, self.wanted)
        return found is None or any(name not in found.rewards for name in names)

    def worker(self, names: Sequence[str], runtime: RuntimeParams) -> Worker:
        """Scores parts that an executor hands out, in a process of its own."""
        scorer = ColumnScorer(self._columns, self._call.dtype, runtime, self._frames)
        parts = {part.fingerprint: part for part in self.plan.parts()}

        def work(shards: Iterable[Shard], is_ending: Ending = never, /) -> Iterator[Shard]:
            given: deque[Shard] = deque()

            def tasks() -> Iterator[_PartTask]:
                for shard in shards:
                    given.append(shard)
                    yield _PartTask(self, parts[shard.fingerprint], names, lambda _=1: None)

            for _ in scorer.run(tasks(), self._writer(scorer, says=True)):
                yield given.popleft()

        return work

    def _log(self, task: _PartTask) -> None:
        failed = sum(reason is not None for reason in task.errors())
        among = f", {failed} of the last {len(task.sent)} failed" if failed else ""
        rate = self._outcome.images_per_s
        log.info("%s scored%s, %.3g images/s", images(self._outcome.scored), among, rate)


@dataclass(frozen=True)
class PartShard(Shard):
    """A part as executors know it: its file has the fingerprint for a name."""

    @property
    def name(self) -> str:
        return f"{self.fingerprint}.parquet"


def _make_worker(call: Call, names: Sequence[str], runtime: RuntimeParams) -> Worker:
    return _Run(call, *_inputs(call), Stop()).worker(names, runtime)


def _keyed(item: tuple[Row, str | None]) -> tuple[tuple[Row, str | None], int]:
    """A row and its prompt, with its key: an image in a table is read and hashed for it."""
    row, prompt = item
    return item, row_key(row.content, prompt)


class _PartTask(ColumnTask):
    """A part in work; rows that were scored as part of another one keep their scores."""

    def __init__(self, run: _Run, part: Part, names: Sequence[str], advance: Callable[[int], object]) -> None:
        """`advance` is told how many images are done."""
        self._found = run.results.find(part, run.wanted)
        super().__init__([name for name in names if not self._found or name not in self._found.rewards])
        self._run, self._part, self._advance = run, part, advance
        self._scored = run.results.rows(run.wanted)
        self._labels: dict[str, list[str | None]] = {"image": [], "prompt": []}
        self._keys: list[int] = []
        self._without_prompt: list[int] = []
        self._last = False

    def rows(self) -> Iterator[tuple[Content | StoredClip, str] | None]:
        """The rows that lack one of the rewards; they get all that the part lacks, and keep what they have."""
        threads = min(MOST_HASHERS, cores())
        for (row, prompt), key in ahead(_keyed, self._part.rows(), threads, HASHED_AHEAD):
            if prompt is None and self._part.prompts.leaves_open(row):
                self._without_prompt.append(len(self._keys))
            elif prompt is None:
                self._run.plan.check_unneeded("an image has", [row.image])
            self._labels["image"].append(row.image)
            self._labels["prompt"].append(prompt)
            self._keys.append(key)
            known = len(self._scored) and self._scored.know(as_keys(self._keys[-1:]), self.missing).all()
            if known and self._part.keys is None:  # it was counted among those to do
                self._advance(1)
            yield None if known else (self._run.scored(row.content), prompt or "")
        self._last = self._part.source.at_end(self._part.stop)

    def add(self, batch: ScoredBatch) -> None:
        super().add(batch)
        self._advance(len(batch.errors))

    def write(self, rewards: dict[str, Any]) -> None:
        """Keep the finished part, with the columns that earlier calls computed; `rewards` says what is new."""
        run, part, found = self._run, self._part, self._found
        if found and found.table["image"].to_pylist() != self._labels["image"]:
            raise run.results.changed()
        keys, kept = as_keys(self._keys), found.rewards if found else {}
        filled: dict[str, Any] = {name: found.table[name] for name in kept} if found else {}
        for name in self.missing:  # a score that was there is never replaced
            known = self._scored.know(keys, [name])
            filled[name] = np.where(known, self._scored.scores(keys, name), self._new_scores(name))
        stored = found.table["error"].to_pylist() if found else [None] * len(keys)
        errors = map(join_reasons, stored, self._scored.errors(keys), self.errors())
        table = score_table(self._labels, filled, errors)
        run.results.write(part.fingerprint, table, {**kept, **rewards}, keys=keys, last=self._last)

    def _new_scores(self, name: str) -> np.ndarray:
        scores = self.scores(name)
        if self._without_prompt and name in self._run.plan.needing:
            scores[self._without_prompt] = np.nan
        return scores

    def errors(self) -> list[str | None]:
        errors = super().errors()
        if self._without_prompt and any(name in self._run.plan.needing for name in self.missing):
            for place in self._without_prompt:
                errors[place] = join_reasons(errors[place], NO_PROMPT)
        return errors
