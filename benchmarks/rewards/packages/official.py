"""The official side: each package called as its README or model card shows, on image files.

Run with the Python of the official environment. Two forms: all images of a prompt in one call where the API takes
them, and one image a call. `hpsv2.score` reads its checkpoint again at every call.
"""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from benchmarks.parity.packages import ImageReward, Official
from benchmarks.parity.packages import load as load_official
from benchmarks.rewards.packages.task import Clock, Columns, Form, Task, each, run


def load(task: Task) -> dict[str, Form]:
    """Both forms, over the same networks."""
    names = {name: "clip/openai-l14" if name == "clip" else name for name in task.sources}
    folder = Path(task.checkpoints)
    rewards = {name: load_official(official, folder, task.device) for name, official in names.items()}
    return {"per prompt": _form(rewards, _by_prompt), "per image": _form(rewards, _one_by_one)}


def _form(rewards: Mapping[str, Official], groups: Callable[[Sequence[str]], list[range]]) -> Form:
    def score(images: Sequence[bytes], prompts: Sequence[str], clock: Clock) -> Columns:
        columns: dict[str, list[float]] = {name: [] for name in rewards}
        with tempfile.TemporaryDirectory() as folder:
            for rows in groups(prompts):
                with clock("files"):
                    paths = [_written(Path(folder) / f"{row}.png", images[row]) for row in rows]
                for name, reward in rewards.items():
                    with clock(name):
                        columns[name] += _call(reward, paths, prompts[rows[0]])
        return {name: np.array(values, np.float32) for name, values in columns.items()}

    return each(score)


def _call(reward: Official, paths: list[str], prompt: str) -> list[float]:
    if isinstance(reward, ImageReward) and len(paths) > 1:
        return reward.rank(paths, prompt)[1]
    return reward.score(paths, prompt)


def _written(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    return str(path)


def _by_prompt(prompts: Sequence[str]) -> list[range]:
    """Rows of consecutive equal prompts."""
    groups, start = [], 0
    for _, group in itertools.groupby(prompts):
        end = start + sum(1 for _ in group)
        groups.append(range(start, end))
        start = end
    return groups


def _one_by_one(prompts: Sequence[str]) -> list[range]:
    return [range(row, row + 1) for row in range(len(prompts))]


if __name__ == "__main__":
    run(load)
