"""Columns of scores, part by part: what a part of a table lacks is computed, what it has is kept to the bit.

The score stage, whose parts are shards, and `tgo score`, whose parts are rows of any source, both work this way. Each
says what its parts are and how one is written; the rewards, the networks and the order are the business of this module.
"""

from __future__ import annotations

import itertools
import time
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from tgo_pipeline.devices import cores
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.rewards.specs import OF_CLIPS, Spec, canonical

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from tgo_pipeline.images.base import Content
    from tgo_pipeline.rewards.base import Reward
    from tgo_pipeline.rewards.engine.images import StoredClip
    from tgo_pipeline.rewards.engine.scorer import ScoredBatch, Scorer


class ColumnTask(ABC):
    """A part in work: `missing` are the columns that it lacks."""

    def __init__(self, missing: Sequence[str]) -> None:
        self.missing = tuple(missing)
        self.sent: list[int] = []
        """The places of the rows that the rewards get."""
        self._batches: list[ScoredBatch] = []
        self._rows: int | None = None

    @abstractmethod
    def rows(self) -> Iterator[tuple[Content | StoredClip, str] | None]:
        """The image (or clip) and the prompt of each row; None for a row that is not to be scored."""

    def samples(self) -> Iterator[tuple[Content | StoredClip, str]]:
        """What the rewards get."""
        count = 0
        for row in self.rows():
            if row is not None:
                self.sent.append(count)
                yield row
            count += 1
        self._rows = count

    def add(self, batch: ScoredBatch) -> None:
        """Take the next scores."""
        self._batches.append(batch)

    @property
    def complete(self) -> bool:
        """Whether every row was read, and every score is there."""
        return self._rows is not None and sum(len(batch.errors) for batch in self._batches) == len(self.sent)

    def scores(self, name: str) -> np.ndarray:
        """What a reward gave to each row in a column, float32 (N,); NaN where it could not, or did not get the row."""
        import numpy as np

        scores = np.full(self._rows or 0, np.nan, np.float32)
        if self.sent:
            scores[self.sent] = np.concatenate([batch.columns[name] for batch in self._batches])
        return scores

    def errors(self) -> list[str | None]:
        """Why each row (N,) could not be scored now."""
        errors: list[str | None] = [None] * (self._rows or 0)
        reasons = itertools.chain.from_iterable(batch.errors for batch in self._batches)
        for row, reason in zip(self.sent, reasons, strict=True):
            errors[row] = reason
        return errors


Task = TypeVar("Task", bound=ColumnTask)
Written = TypeVar("Written")


class ColumnScorer:
    """Computes missing columns with rewards that fit into memory together (`memory.groups`).

    `columns` says which reward fills each column (`specs.columns`). Each reward is loaded once, when a task first needs
    it. Use one in each process.
    """

    def __init__(
        self, columns: Mapping[str, Spec], dtype: str, runtime: RuntimeParams, frames: int | None = None
    ) -> None:
        """`frames` says that samples are clips, and of how many frames rewards of images give the mean."""
        from tgo_pipeline.devices import keep_freed_memory
        from tgo_pipeline.executors.runtime import prepare_torch

        self._specs, self._dtype, self._runtime, self._frames = columns, dtype, runtime, frames
        self._device = prepare_torch(runtime)
        if self._device.type == "cpu":
            keep_freed_memory()
        self._loaded: dict[Spec, Reward] = {}
        self.seconds = 0.0
        """How long the networks worked, without the loading."""

    def load(self, name: str) -> Reward:
        """The reward of a column."""
        from tgo_pipeline.rewards import load_reward

        spec = self._specs[name]
        if spec not in self._loaded:
            compiled = self._runtime.compile
            reward = load_reward(spec, None, self._device, self._dtype, compiled)
            if self._frames is not None and canonical(spec.reward) not in OF_CLIPS:
                from tgo_pipeline.rewards.of_clips import FrameMean

                reward = FrameMean(reward, self._frames)
            self._loaded[spec] = reward
        return self._loaded[spec]

    def describe(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """What these columns are."""
        return {name: self._describe(name) for name in names}

    def _describe(self, name: str) -> dict[str, Any]:
        reward, part = self.load(name), name.removeprefix(self._specs[name].column)
        return reward.describe_part(part.removeprefix(".")) if part else reward.description

    def run(self, tasks: Iterable[Task], write: Callable[[Task], Written]) -> Iterator[Written]:
        """Score every task for the columns that it lacks and `write` it once it is complete, in their order.

        A kill then leaves no gap. Tasks that lack the same columns follow each other without a pause: the images of
        the next are decoded while one is with the networks.
        """
        for missing, some in itertools.groupby(tasks, lambda task: task.missing):
            if missing:
                yield from self._score(missing, some, write)
            else:
                yield from map(write, some)

    def _score(
        self, names: Sequence[str], tasks: Iterable[Task], write: Callable[[Task], Written]
    ) -> Iterator[Written]:
        waiting: deque[Task] = deque()
        written: deque[Written] = deque()

        def write_complete() -> None:
            while waiting and waiting[0].complete:
                written.append(write(waiting.popleft()))

        def parts() -> Iterator[Iterator[tuple[Content | StoredClip, str]]]:
            for task in tasks:
                write_complete()  # no batch comes of a part whose rows are all kept
                waiting.append(task)
                yield task.samples()

        with self._scorer(names) as scorer:
            started_s = time.monotonic()
            for _, batch in scorer.stream_parts(parts()):
                self.seconds += time.monotonic() - started_s
                started_s = time.monotonic()
                write_complete()
                waiting[0].add(batch)
                write_complete()
                yield from written
                written.clear()
            write_complete()
            yield from written

    def _scorer(self, names: Sequence[str]) -> Scorer:
        from tgo_pipeline.rewards.engine.scorer import Scorer

        runtime = self._runtime
        share = max(1, cores() // runtime.processes)
        workers = max(1, share - 1) if self._device.type != "cpu" else 0
        return Scorer(
            {self._specs[name].column: self.load(name) for name in names},
            batch_size=runtime.score_batch_size,
            workers=workers if runtime.workers is None else runtime.workers,
            threads=share,
            parts=True,
        )


def score_table(
    labels: Mapping[str, Any],
    columns: Mapping[str, Any],
    errors: Iterable[str | None],
    given: Collection[str] = (),
) -> pa.Table:
    """A table of scores: what names the rows, a column (NaN or null: none) for each reward, and why there is none.

    A reason stays only where a score is missing, since the reward that it is of may be another one by now. Columns that
    people have `given` count for nothing there: a row without feedback is not a failure.
    """
    import numpy as np
    import pyarrow as pa

    from tgo_pipeline.storage.tables import scores_schema

    scores = {name: _nullable(column) for name, column in columns.items()}
    reasons = list(errors)
    lacking = np.zeros(len(reasons), dtype=bool)
    for name, column in scores.items():
        if name not in given:
            lacking |= column.is_null().to_numpy(zero_copy_only=False)
    kept = [reason if lacks else None for reason, lacks in zip(reasons, lacking.tolist(), strict=True)]
    return pa.table({**labels, **scores, "error": kept}, schema=scores_schema(list(scores), list(labels)))


def _nullable(column: Any) -> pa.Array:
    """Scores that were computed have NaN where there is none; those of a table have a null there already."""
    import numpy as np
    import pyarrow as pa

    if isinstance(column, pa.ChunkedArray):
        return column.combine_chunks()
    return pa.array(column, mask=np.isnan(column))
