"""This project's side: all rewards in one `Scorer`, in a process set up as the score stage's are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from benchmarks.rewards.packages.task import Clock, Columns, Form, Shard, Task, run
from tgo_pipeline.devices import keep_freed_memory
from tgo_pipeline.rewards import load_reward
from tgo_pipeline.rewards.engine.scorer import ScoredBatch, Scorer


def load(task: Task) -> dict[str, Form]:
    """One form: everything at once, the next shard decoded while one is with the networks."""
    if task.device == "cpu":
        keep_freed_memory()
    rewards = {name: load_reward(name, source, task.device) for name, source in task.sources.items()}
    workers = 0 if task.device == "cpu" else max(1, task.threads - 1)
    scorer = Scorer(rewards, workers=workers)

    def score(shards: Iterable[Shard], clock: Clock) -> Iterator[Columns]:
        parts = (zip(images, prompts, strict=True) for images, prompts in shards)
        gathered: list[ScoredBatch] = []
        current = 0
        for part, batch in scorer.stream_parts(parts):
            if part != current:
                yield _joined(gathered)
                gathered, current = [], part
            gathered.append(batch)
        yield _joined(gathered)

    return {"together": score}


def _joined(batches: list[ScoredBatch]) -> Columns:
    return {name: np.concatenate([batch.columns[name] for batch in batches]) for name in batches[0].columns}


if __name__ == "__main__":
    run(load)
