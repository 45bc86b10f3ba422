"""Both sides on the same draws: the plain loop must have the engine's loss in every step, or one does other work."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from benchmarks.training.architectures import build_pipeline, examples
from benchmarks.training.ours import Engine
from benchmarks.training.plain import Draw, PlainLoop
from benchmarks.training.task import Task, Work
from fine_tune.policies.base import Policy

LEARNING_RATE = 3e-5
"""Large enough for the losses to move away from log 2 within a few steps."""


class Recorded:
    """Listens to what a policy draws."""

    def __init__(self, policy: Policy) -> None:
        self.corruptions: list[tuple[Tensor, Any]] = []
        corrupt = policy.corrupt

        def record(
            images: Mapping[str, Tensor], conditions: Mapping[str, Tensor], seeds: Sequence[int]
        ) -> Any:
            self.corruptions.append((images["latents"], corrupt(images, conditions, seeds)))
            return self.corruptions[-1][1]

        policy.corrupt = record  # type: ignore[method-assign]

    def draws(self, latents: Tensor, micro: int) -> Iterator[Draw]:
        """What was drawn, in parts of `micro` rows; a sample is known by its latents."""
        for encoded, noised in self.corruptions:
            rows = [int((latents == row).flatten(1).all(1).nonzero()) for row in encoded]
            for start in range(0, len(rows), micro):
                part = slice(start, start + micro)
                yield Draw(rows[part], noised.timesteps[part], noised.target[part])


def losses(task: Task) -> dict[str, list[float]]:
    """The losses of the first steps of both sides, from equal weights, samples, timesteps and noise."""
    engine = Engine(task, LEARNING_RATE)
    engine.encode()
    recorded = Recorded(engine.build())
    ours = [engine.step() for _ in range(task.steps)]
    device = torch.device(task.device)
    data = examples(task.architecture, task.size, task.batch)
    latents = engine.latents().to(device)
    pipeline = build_pipeline(task.architecture, task.size, device)
    loop = PlainLoop(task, pipeline, data, LEARNING_RATE)
    draws = recorded.draws(latents, task.micro)
    return {"ours": ours, "plain": [loop.step(draws) for _ in range(task.steps)]}


def load(task: Task) -> Work:
    """The check as a side's work, without steps of its own."""
    return Work(lambda: 0.0, facts={"check": losses(task)})
