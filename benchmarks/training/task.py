"""What a side of the training benchmark is asked to do, and how its steps are timed."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.rewards.packages.task import forget_peak, peak_bytes
from benchmarks.turns import wait_for_turn

RESULT = "RESULT.json"
BETA, TEMPERATURE, LEARNING_RATE = 1.0, 0.001, 1e-5


@dataclass(frozen=True)
class Task:
    """One side's work: `steps` optimiser steps of `batch` samples, `micro` of them in a forward pass."""

    out: str
    side: str
    """ours, mixed, plain or matmul."""
    architecture: str
    size: str
    method: str = "full"
    """full or lora."""
    device: str = "cpu"
    threads: int = 1
    batch: int = 8
    micro: int = 8
    steps: int = 4
    checkpointing: bool = False
    compile: bool = False
    vae_fp32: bool = True
    """Of a plain loop: whether its VAE stays in float32 under autocast."""
    pairs: bool = False
    """Of a plain loop: whether it encodes one prompt for the two images of a pair."""
    turns: bool = False
    """Whether to stop, once all is loaded, until it is this side's turn."""

    @classmethod
    def read(cls, path: Path) -> Task:
        """A task as `write` left it."""
        return cls(**json.loads(path.read_text()))

    def write(self, path: Path) -> None:
        """Leave the task for a side to read."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dataclasses.asdict(self)))


@dataclass(frozen=True)
class Work:
    """A side that has everything loaded."""

    step: Callable[[], float]
    """Take one optimiser step; returns its loss."""
    encode: Callable[[], None] | None = None
    """Fill the cache that the steps read, if the side has one; called once, before the first step."""
    facts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """What the result says besides."""


def run(task: Task, load: Callable[[Task], Work]) -> None:
    """Load a side, take one step to warm up, then time the others; the result is written again after each step."""
    import torch

    torch.set_num_threads(task.threads)
    forget_peak(task.device)
    bare = peak_bytes()
    work = load(task)
    out = Path(task.out)
    if task.turns:
        wait_for_turn(out)
    result: dict[str, Any] = {"bare_bytes": bare, **work.facts}
    if work.encode is not None:
        result["encode"] = timed(work.encode, task.device)[0]
    result["warm_up"], result["losses"], result["steps"] = timed(work.step, task.device)[0], [], []
    forget_peak(task.device)
    for _ in range(task.steps):
        span, loss = timed(work.step, task.device)
        result["steps"].append(span)
        result["losses"].append(loss)
        result |= {"peak_bytes": peak_bytes(), "peak_device_bytes": _peak_device_bytes(task.device)}
        temporary = out / f"{RESULT}.new"
        temporary.write_text(json.dumps(result))
        temporary.replace(out / RESULT)


def timed(work: Callable[[], Any], device: str) -> tuple[tuple[float, float], Any]:
    """The start and the end of `work`, after the accelerator has done all of it, and what it returned."""
    start = time.perf_counter()
    value = work()
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize()
    return (start, time.perf_counter()), value


def _peak_device_bytes(device: str) -> int:
    import torch

    return torch.cuda.max_memory_allocated() if device.startswith("cuda") else 0
