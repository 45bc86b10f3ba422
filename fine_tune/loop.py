"""The training loop: updates, and what is written beside them in an order that a kill at any point survives."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from tgo_pipeline.progress import Bar

if TYPE_CHECKING:
    from fine_tune.checkpoints import Checkpoints
    from fine_tune.log import TrainingLog
    from fine_tune.trainer import Trainer, Update
    from fine_tune.validation import Validation
    from tgo_pipeline.params import FineTuneParams
    from tgo_pipeline.shards import Stop

log = logging.getLogger("tgo")
REPORTS = 10
"""How many times in a training a line is logged and the log-ratios' histogram written."""


def fit(
    trainer: Trainer,
    params: FineTuneParams,
    *,
    checkpoints: Checkpoints,
    training: TrainingLog,
    validation: Validation | None,
    stop: Stop,
) -> None:
    """Train to the last step. Raises `Interrupted` after a signal, with a checkpoint of the last finished step.

    What a step says (metrics, histogram, picture) is written before its checkpoint: on resuming it is there up to
    the checkpoint, and what came after is written again.
    """
    if validation is not None and trainer.step == 0:
        validation.draw(0)
    with Bar("fine-tuning", params.steps) as bar:
        bar.advance(trainer.step)
        while trainer.step < params.steps:
            update = trainer.update()
            bar.advance()
            _report(trainer.step, params, update, training)
            if validation is not None and trainer.step % params.validation.every == 0:
                with trainer.averaged():
                    validation.draw(trainer.step)
            last = trainer.step == params.steps
            if last or stop.requested or trainer.step % params.checkpoint_every == 0:
                checkpoints.save(trainer.state())
            stop.check()


def _report(step: int, params: FineTuneParams, update: Update, training: TrainingLog) -> None:
    training.metrics(step, update.metrics)
    if step % max(1, params.steps // REPORTS) and step != params.steps:
        return
    if update.log_ratio is not None:
        training.histogram(step, update.log_ratio, update.label)
    shown = {name: update.metrics[name] for name in ("loss", "accuracy") if name in update.metrics}
    log.info("step %d/%d %s", step, params.steps, " ".join(f"{name} {v:.4f}" for name, v in shown.items()))
