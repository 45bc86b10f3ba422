"""Trackers in addition to dvclive: TensorBoard event files, and Weights & Biases, offline by default.

Each training has a folder or run of its own, named by its objective and fingerprint, so that trainings stand side by
side and a resumed one continues where it was. What came after the checkpoint that it resumes from is said again, once.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tgo_pipeline.errors import TgoError, first_line

EXTRA = "tracking"
IMAGES = "validation"
PROJECT = "tgo-pipeline"
OFFLINE = "offline"


class Tracker(Protocol):
    """What follows a training, step by step; a step's metrics come before its image."""

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """The metrics of a step."""
        ...

    def image(self, step: int, path: Path) -> None:
        """The validation images of a step, one file."""
        ...

    def close(self) -> None:
        """Finish the log; nothing comes after."""
        ...


class History(Protocol):
    """What a training has said so far."""

    def rows(self) -> Iterator[tuple[int, dict[str, float]]]:
        """Each step with its metrics, in order."""
        ...

    def images(self) -> Mapping[int, Path]:
        """Each step with validation images."""
        ...


@dataclass(frozen=True)
class Run:
    """A training as trackers know it: a name that no other has, what it was given, and where their files go."""

    name: str
    config: Mapping[str, Any]
    folder: Path


def require(names: Sequence[str]) -> None:
    """Raise `TgoError` unless the packages of all trackers are installed."""
    for name in names:
        if importlib.util.find_spec(name) is None:
            raise TgoError(
                f"runtime.trackers names {name}, which is not installed: pip install 'tgo-pipeline[{EXTRA}]', or take "
                "it out of runtime.trackers."
            )


def open_trackers(names: Sequence[str], run: Run, step: int, history: History) -> list[Tracker]:
    """The trackers of a training that continues after `step`. Raises `TgoError` if one cannot start."""
    require(names)
    makers = {"tensorboard": _tensorboard, "wandb": _wandb}
    return [makers[name](run, step, history) for name in dict.fromkeys(names)]


def _tensorboard(run: Run, step: int, _: History) -> Tracker:
    return TensorBoard(run.folder / "tensorboard" / run.name, run.config, step)


def _wandb(run: Run, step: int, history: History) -> Tracker:
    return WeightsAndBiases(run, step, history)


class TensorBoard:
    """Event files in `folder`: those of a resumed training say from which step on earlier ones do not count."""

    def __init__(self, folder: Path, config: Mapping[str, Any], step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        if step == 0:
            shutil.rmtree(folder, ignore_errors=True)
        self._writer = SummaryWriter(str(folder), purge_step=step + 1 if step else None)
        if step == 0:
            self._writer.add_text("params", f"```json\n{json.dumps(config, indent=2, default=str)}\n```", 0)

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append the metrics of a step, on disk before its checkpoint."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def image(self, step: int, path: Path) -> None:
        """Append the validation images of a step."""
        import numpy as np
        from PIL import Image

        with Image.open(path) as opened:
            self._writer.add_image(IMAGES, np.asarray(opened.convert("RGB")), step, dataformats="HWC")
        self._writer.flush()

    def close(self) -> None:
        """Write what is left and close the file."""
        self._writer.close()


class WeightsAndBiases:
    """A run of W&B: offline, and nothing leaves the machine, unless WANDB_MODE says otherwise.

    An offline run cannot be shortened. The one of a resumed training is therefore written again from what dvclive kept,
    so that one `wandb sync` has every step once. Online, W&B knows which steps it has, and those are not sent again.
    """

    def __init__(self, run: Run, step: int, history: History) -> None:
        """Raises `TgoError` if W&B refuses, for an unknown mode or a missing key."""
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")  # it would report its own errors, offline too
        import wandb

        mode = os.environ.get("WANDB_MODE", OFFLINE)
        run.folder.mkdir(parents=True, exist_ok=True)
        if mode == OFFLINE:
            _remove_unsent(run.folder, run.name)
        settings = {
            "console": "off",
            "silent": True,
            "disable_git": True,
            "disable_code": True,
            "x_disable_meta": True,
            "x_save_requirements": False,
        }
        try:
            self._run = wandb.init(
                dir=str(run.folder),
                project=os.environ.get("WANDB_PROJECT", PROJECT),
                id=run.name,
                name=run.name,
                config=dict(run.config),
                mode=mode,  # type: ignore[arg-type]
                resume="allow" if step and mode != OFFLINE else None,
                settings=wandb.Settings(**settings),
            )
        except (wandb.Error, ValueError) as error:
            raise TgoError(
                f"Weights & Biases cannot start with WANDB_MODE={mode} ({first_line(error)}): unset WANDB_MODE to log "
                "offline, or take wandb out of runtime.trackers."
            ) from error
        self._log = wandb
        self._replay(history)

    def _replay(self, history: History) -> None:
        images = dict(history.images())
        for step, values in history.rows():
            self._replay_images(images, before=step)
            self.metrics(step, values)
        self._replay_images(images)

    def _replay_images(self, images: dict[int, Path], before: int | None = None) -> None:
        for step in sorted(images):
            if before is None or step < before:
                self.image(step, images.pop(step))

    def metrics(self, step: int, values: Mapping[str, float]) -> None:
        """Append the metrics of a step, unless the run has it."""
        if step >= self._run.step:
            self._run.log(dict(values), step=step)

    def image(self, step: int, path: Path) -> None:
        """Append the validation images of a step, unless the run has it."""
        if step >= self._run.step:
            self._run.log({IMAGES: self._log.Image(str(path))}, step=step)

    def close(self) -> None:
        """Finish the run."""
        self._run.finish()


def _remove_unsent(folder: Path, name: str) -> None:
    """Remove the offline run of this training that was not synced: it is written again."""
    for path in (folder / "wandb").glob(f"offline-run-*-{name}"):
        if not any(path.glob("*.synced")):
            shutil.rmtree(path)
