"""Checkpoints that are complete or not there: written under a temporary name, synced, renamed."""

from __future__ import annotations

import json
import logging
import re
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tgo_pipeline.storage import digests
from tgo_pipeline.storage.shards import Mark, stored_metadata
from tgo_pipeline.storage.writing import TEMPORARY, atomic_folder

log = logging.getLogger("tgo")
STATE, WEIGHTS, OPTIMIZER = "state.json", "weights.safetensors", "optimizer.safetensors"
AVERAGE = "average.safetensors"
_STEP = re.compile(r"step-(\d+)")


@dataclass(frozen=True)
class State:
    """All that training needs to continue exactly.

    The order of the data, noise, dropout of captions and the learning rate are functions of the seed and the step,
    so `step` is also the position in the data and in the logs, and there is no random state to keep.
    """

    step: int
    weights: dict[str, Any]
    """Trained tensors by name."""
    optimizer: dict[str, Any]
    """Optimiser tensors by `<moment>.<name>`."""
    scaler: dict[str, Any]
    """State of the fp16 loss scaler, else empty."""
    average: dict[str, Any] = field(default_factory=dict)
    """Moving average of the trained tensors by name, if one is kept."""
    memory: dict[str, list[float]] = field(default_factory=dict)
    """Numbers that go from step to step: the objective's reference point, the guard's ratios."""


class Checkpoints:
    """A folder that holds the newest checkpoint of one training, told from others by its mark."""

    def __init__(self, folder: Path, mark: Mark) -> None:
        self._folder = folder
        self._mark = mark

    def save(self, state: State) -> None:
        """Write a checkpoint, then remove the older ones. Raises `TgoError` on a full disk."""
        from fine_tune.data.tensors import write_tensors

        newest = self._folder / f"step-{state.step:05d}"
        with atomic_folder(newest) as temporary:
            write_tensors(state.weights, temporary / WEIGHTS, {})
            write_tensors(state.optimizer, temporary / OPTIMIZER, {})
            if state.average:
                write_tensors(state.average, temporary / AVERAGE, {})
            content = {
                **self._mark.entries(),
                "step": state.step,
                "scaler": state.scaler,
                "memory": state.memory,
            }
            (temporary / STATE).write_text(json.dumps(content))
        for other in self._folders():
            if other != newest:
                shutil.rmtree(other)

    def load(self) -> State | None:
        """The newest checkpoint of this training; those of another one and left-over temporaries are removed."""
        from fine_tune.data.tensors import read_tensors

        path = self.sweep()
        if path is None:
            return None
        digests.verify_folder(path)
        content = json.loads((path / STATE).read_text())
        weights, _ = read_tensors(path / WEIGHTS)
        optimizer, _ = read_tensors(path / OPTIMIZER)
        average = read_tensors(path / AVERAGE)[0] if (path / AVERAGE).is_file() else {}
        return State(content["step"], weights, optimizer, content["scaler"], average, content["memory"])

    def sweep(self) -> Path | None:
        """Remove what does not belong to this training; the newest checkpoint that does."""
        found = self._folders()
        for path in found:
            if path.name.startswith(TEMPORARY):
                shutil.rmtree(path)
            elif not self._mark.fits(stored_metadata(path / STATE)):
                log.info("discarding %s: it belongs to a training with other parameters or data", path)
                shutil.rmtree(path)
        return max((path for path in found if path.exists()), key=_step, default=None)

    def _folders(self) -> list[Path]:
        return [path for path in self._folder.glob("*") if path.is_dir()]

    def clear(self) -> None:
        """Remove the folder."""
        shutil.rmtree(self._folder, ignore_errors=True)


def latest_step(folder: Path, mark: Mark) -> int:
    """The step of a training's newest checkpoint, 0 if there is none; changes nothing."""
    steps = (_step(path) for path in folder.glob("step-*") if mark.fits(stored_metadata(path / STATE)))
    return max(steps, default=0)


def _step(path: Path) -> int:
    match = _STEP.fullmatch(path.name)
    return int(match[1]) if match else -1
