"""This project's side: all rewards in one `Scorer`, in a process set up as the score stage's are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from benchmarks.sides.task import Clock, Form, Task, run


def load(task: Task) -> dict[str, Form]:
    """One form: everything at once."""
    from tgo_pipeline.devices import keep_freed_memory
    from tgo_pipeline.rewards import load_reward
    from tgo_pipeline.rewards.scorer import Scorer

    if task.device == "cpu":
        keep_freed_memory()
    rewards = {name: load_reward(name, source, task.device) for name, source in task.sources.items()}
    scorer = Scorer(rewards)

    def score(images: Sequence[bytes], prompts: Sequence[str], clock: Clock) -> Mapping[str, np.ndarray]:
        return scorer.score(images, prompts).columns

    return {"together": score}


if __name__ == "__main__":
    run(load)
