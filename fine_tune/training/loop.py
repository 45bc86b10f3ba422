"""The training loop: updates, and what is written beside them in an order that a kill at any point survives."""

from __future__ import annotations

import functools
import logging
from typing import TYPE_CHECKING

from tgo_pipeline.executors.aside import Aside
from tgo_pipeline.executors.progress import Bar
from tgo_pipeline.storage.shards import Interrupted

if TYPE_CHECKING:
    from fine_tune.distributed.processes import Group
    from fine_tune.training.checkpoints import Checkpoints
    from fine_tune.training.log import TrainingLog
    from fine_tune.training.reestimate import Reestimation
    from fine_tune.training.trainer import Trainer, Update
    from fine_tune.training.validation import Validation
    from tgo_pipeline.params import FineTuneParams
    from tgo_pipeline.storage.shards import Stop

log = logging.getLogger("tgo")
REPORTS = 10
"""How many times in a training a line is logged and the log-ratios' histogram written, however long it is."""

SHOWN = ("loss", "accuracy", "reward", "drift")
"""Metrics of that line."""


def fit(
    trainer: Trainer,
    params: FineTuneParams,
    *,
    checkpoints: Checkpoints,
    training: TrainingLog | None,
    validation: Validation | None,
    stop: Stop,
    group: Group,
    thresholds: Reestimation | None = None,
) -> None:
    """Train to the last step. Raises `Interrupted` after a signal, with a checkpoint of the last finished step.

    Every process of the group calls it; the main one has the log and writes the checkpoints, and a signal to any of
    them stops all after the same step.

    What a step says (metrics, histogram, image) is written before its checkpoint: on resuming it is there up to
    the checkpoint, and what came after is written again. A checkpoint is copied to the host's memory at its step and
    written by a thread while training goes on; the next one, and the end, wait for it. `thresholds` labels each epoch
    again, if the parameters ask for it.
    """

    def draw() -> None:
        if validation is not None:
            with trainer.averaged():
                path = validation.draw(trainer.step)
            if training is not None and path is not None:
                training.image(trainer.step, path)

    if params.validation.every and trainer.step == 0:
        group.agree(draw)
    with Bar("fine-tuning", params.steps) as bar, Aside() as writing:
        bar.advance(trainer.step)
        while trainer.step < params.steps:
            if thresholds is not None:
                thresholds.advance()
            update = trainer.update()
            if thresholds is not None:
                update.metrics["threshold"] = thresholds.tau
            bar.advance()
            if training is not None:
                _report(trainer.step, params, update, training)
            if params.validation.every and trainer.step % params.validation.every == 0:
                group.agree(draw)
            last, stopping = trainer.step == params.steps, group.any(stop.requested or writing.failed)
            if last or stopping or trainer.step % params.checkpoint_every == 0:
                group.on_main(writing.wait)  # before another copy is made
                state = trainer.state()
                if group.is_main:
                    writing.do(functools.partial(checkpoints.save, state))
                del state
            if last or stopping:
                group.on_main(writing.wait)
            if stopping:
                raise Interrupted


def _report(step: int, params: FineTuneParams, update: Update, training: TrainingLog) -> None:
    training.metrics(step, update.metrics)
    if step % max(1, params.steps // REPORTS) and step != params.steps:
        return
    if update.log_ratio is not None and update.label is not None:
        training.histogram(step, update.log_ratio, update.label)
    shown = {name: update.metrics[name] for name in SHOWN if name in update.metrics}
    log.info("step %d/%d %s", step, params.steps, " ".join(f"{name} {v:.4f}" for name, v in shown.items()))
