"""The fine_tune stage: encode once, train from where the last run ended, write a folder that `diffusers` loads."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
from collections.abc import Mapping
from typing import TYPE_CHECKING

from fine_tune import noise_levels, result
from fine_tune.base import Base, build_policy, load_base, prepare
from fine_tune.distributed import start
from fine_tune.distributed.processes import joined
from fine_tune.guidance_modules import NEGATIVE, finish, modules
from fine_tune.inputs import choose_units, encode, open_job, training_data
from fine_tune.job import Job, guided_mark, is_done, module_jobs, plan, progress, source
from fine_tune.levels import measured
from fine_tune.objectives import make_objective
from fine_tune.training import importance, reestimate
from fine_tune.training.checkpoints import Checkpoints
from fine_tune.training.trackers import Run, open_trackers, require
from tgo_pipeline.params.fine_tune import IMPORTANCE, MEASURED
from tgo_pipeline.storage.shards import Stop
from tgo_pipeline.storage.writing import sweep_temporaries

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    from torch import Tensor

    from fine_tune.data.batches import TrainingData
    from fine_tune.objectives.base import Objective
    from fine_tune.policies.base import Policy
    from fine_tune.reward_backprop.gradient import RewardGradient
    from fine_tune.training.log import TrainingLog
    from fine_tune.training.reestimate import Estimator, Reestimation
    from fine_tune.training.trainer import Trainer
    from tgo_pipeline.params import Params
    from tgo_pipeline.storage.workspace import Workspace

log = logging.getLogger("tgo")
__all__ = ["plan", "progress", "run", "source"]


def run(params: Params, workspace: Workspace) -> None:
    """Fine-tune `params.model` on the labelled generations and write the tuned model.

    Resumes exactly from the newest checkpoint of the same parameters and data; does nothing if the model is their
    result already. Raises `TgoError` for inputs that cannot be trained on and for a training that diverges, and
    `Interrupted` after a signal, with a checkpoint of the last finished step. Several processes share the work: those
    of a launcher, or as many as `runtime.processes` and the GPUs allow, which this starts.
    """
    processes = start.count(params)
    if processes > 1:
        start.run(processes, train, params, workspace)
    else:
        train(params, workspace)


def train(params: Params, workspace: Workspace, told: Event | None = None) -> None:
    """Do the work of `run` in this process, one of several if a launcher says so; `told` as `joined` takes it."""
    with joined(params.runtime, told) as (group, runtime), contextlib.ExitStack() as held:
        group.on_main(lambda: held.enter_context(result.hold(workspace.model)))
        group.on_main(lambda: require(params.runtime.trackers))
        job = open_job(dataclasses.replace(params, runtime=runtime), workspace, group)
        params = job.params
        if NEGATIVE not in modules(params):
            earlier = workspace.training / NEGATIVE  # the log of a cpgd
            group.on_main(lambda: shutil.rmtree(earlier, ignore_errors=True))
        if modules(params):
            _run_modules(job)
        else:
            _run_one(job)


def _run_modules(job: Job) -> None:
    params, output, group = job.params, job.output, job.group
    mark = guided_mark(job)
    if group.on_main(lambda: mark.fits(result.stored(output))):
        log.info("%s: already the result of these parameters and labels, nothing to do", output)
        return
    for each in module_jobs(job):
        group.on_main(lambda each=each: sweep_temporaries(each.output))
        _run_one(each)
    group.on_main(lambda: finish(params, output, job.workspace.checkpoints, mark))


def _run_one(job: Job) -> None:
    tuning = job.params.fine_tune
    objective = make_objective(tuning)
    if tuning.noise_levels == IMPORTANCE:
        importance.check(objective, tuning.draws)
    trained, units = choose_units(job, objective)
    kept, group = Checkpoints(job.workspace.checkpoints, job.mark), job.group
    if group.on_main(lambda: is_done(job)):
        log.info("%s: already the result of these parameters and labels, nothing to do", job.output)
    else:
        encode(job)
        if tuning.noise_levels in MEASURED:
            job = job.at_levels(measured(job, noise_levels.BATCHES))
        data = training_data(job, objective, trained, units)
        with group.stop() as stop:
            _train(job, objective, data, kept, stop)
    group.on_main(kept.clear)


def _train(job: Job, objective: Objective, data: TrainingData, checkpoints: Checkpoints, stop: Stop) -> None:
    from fine_tune.training.loop import fit
    from fine_tune.training.trainer import Trainer

    params, tuning, group = job.params, job.params.fine_tune, job.group
    base = group.agree(lambda: prepare(job, objective, data))
    own = group.agree(lambda: _reward_gradient(job, objective, base))
    given = (data, tuning, params.runtime, base.accelerator, group, own, job.importance)
    trainer = Trainer(base.policy, objective, *given)
    group.on_main(checkpoints.sweep)
    state = checkpoints.load()
    if state is not None:
        trainer.load_state(state)
        log.info("resuming after step %d of %d", state.step, tuning.steps)
    with contextlib.ExitStack() as opened:
        fit(
            trainer,
            tuning,
            checkpoints=checkpoints,
            training=group.agree(
                lambda: opened.enter_context(_log(job, trainer.step)) if group.is_main else None
            ),
            validation=base.validation,
            stop=stop,
            group=group,
            thresholds=group.agree(lambda: _reestimation(job, base.estimator, objective, trainer, data)),
        )
    with trainer.averaged():
        weights = trainer.weights() if group.sharded else {}
        group.on_main(lambda: _write(job, objective, base.policy, weights))


def _reward_gradient(job: Job, objective: Objective, base: Base) -> RewardGradient | None:
    """How an objective that samples images comes by its gradient; None for others."""
    from fine_tune.reward_backprop import assemble
    from fine_tune.reward_backprop.objectives import RewardObjective

    if not isinstance(objective, RewardObjective):
        return None
    return assemble.gradient(
        objective, base.policy, base.pipeline, job.params, job.workspace.scores, base.accelerator, job.group
    )


def _reestimation(
    job: Job, estimator: Estimator | None, objective: Objective, trainer: Trainer, data: TrainingData
) -> Reestimation | None:
    params, labels = job.params, job.labels
    if estimator is None:
        return None
    return reestimate.Reestimation(
        trainer,
        data,
        estimator,
        relabel=lambda tau: reestimate.relabelled(labels, tau, params, objective),
        first=reestimate.first_tau(params, job.workspace.thresholds),
        group=job.group,
    )


def _log(job: Job, step: int) -> TrainingLog:
    """The log of a training from `step` on, with its trackers."""
    from fine_tune.training.log import TrainingLog

    config = {name: value for name, value in dataclasses.asdict(job.params).items() if name != "runtime"}
    name = job.params.fine_tune.objective.replace(":", ".")  # a colon is no part of a file's name everywhere
    run = Run(f"{name}-{job.mark.fingerprint[:8]}", config, job.workspace.runs)
    names = job.params.runtime.trackers
    opened = TrainingLog(
        job.workspace.training, step, lambda written: open_trackers(names, run, step, written)
    )
    if job.asked is not None:
        opened.parameter("noise_levels", job.params.fine_tune.levels)
    return opened


def _write(job: Job, objective: Objective, policy: Policy, weights: Mapping[str, Tensor]) -> None:
    """Write the result: of the policy as it is, or of one built again on the CPU that is given whole `weights`."""
    if weights:
        policy = build_policy(job, load_base(job.params), with_reference=False)
        policy.load(weights)
    result.write(job.output, job.params, policy, job.mark, objective.sampling)
