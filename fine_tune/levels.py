"""The signal by noise level before a training: measured once, kept as a table, and read from there."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fine_tune import noise_levels
from fine_tune.base import prepare
from fine_tune.distributed import start
from fine_tune.distributed.processes import Group, joined
from fine_tune.inputs import choose_units, encode, open_job, training_data
from fine_tune.job import Job, module_jobs
from fine_tune.objectives import make_objective
from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.locks import lock

if TYPE_CHECKING:
    from multiprocessing.synchronize import Event

    from fine_tune.noise_levels.table import Levels
    from tgo_pipeline.params import Params
    from tgo_pipeline.storage.shards import Shard
    from tgo_pipeline.storage.workspace import Workspace

log = logging.getLogger("tgo")


def measure_levels(params: Params, workspace: Workspace, batches: int | None = None) -> list[Levels]:
    """Measure how much signal the first update's gradient has by noise level, of a guidance for each module.

    Writes a table that a training with `noise_levels: auto` takes its range from, if it is of as many batches as that
    would measure. Does nothing where it is there. Errors and processes as in `run`.
    """
    from fine_tune.noise_levels import table

    processes, batches = start.count(params), batches or noise_levels.BATCHES
    if processes > 1:
        start.run(processes, _measure_all, params, workspace, batches)
    else:
        _measure_all(params, workspace, batches)
    job = open_job(params, workspace, Group())
    return [table.read(each.workspace.noise_levels) for each in module_jobs(job) or [job]]


def _measure_all(params: Params, workspace: Workspace, batches: int, told: Event | None = None) -> None:
    with joined(params.runtime, told) as (group, runtime):
        job = open_job(dataclasses.replace(params, runtime=runtime), workspace, group)
        for each in module_jobs(job) or [job]:
            encode(each)
            measured(each, batches)


def measured(job: Job, batches: int) -> Levels:
    """The signal by noise level at the start of a training: as it was measured before, or measured now."""
    from fine_tune.noise_levels import measure, table, view
    from fine_tune.noise_levels.statistics import Sketches

    if make_objective(job.params.fine_tune).needs_reward:
        raise TgoError(
            f"{job.params.fine_tune.objective} samples images and draws no noise level, so there is none to measure: "
            "leave fine_tune.noise_levels at [0, 1], or choose an objective on stored samples."
        )
    path, mark, group = job.workspace.noise_levels, job.levels_mark(batches), job.group
    found = group.on_main(lambda: table.find(path, mark))
    if found is None:
        log.info("measuring the signal of noise levels before the first update")
        folder = path.with_suffix("")
        with contextlib.ExitStack() as held:
            group.on_main(lambda: held.enter_context(lock(folder)))
            shards = measure.planned(batches, mark)
            size, edges = _sketch(job, folder, shards)

            def write() -> Levels:
                sketches = Sketches(measure.read(folder, shards), size, job.params.fine_tune.batch_size)
                return table.write(path, mark, sketches, edges, job.params.fine_tune.objective)

            found = group.on_main(write)
            group.on_main(lambda: shutil.rmtree(folder))
    if group.is_main:
        log.info("%s, from %s", view.suggestion(found, job.params.fine_tune.steps), path)
    return found


def _sketch(job: Job, folder: Path, shards: Sequence[Shard]) -> tuple[int, list[float]]:
    """Write gradients of the first update by bin of levels; the units of a batch, and the edges of the bins."""
    from fine_tune.noise_levels import measure

    tuning, group = job.params.fine_tune, job.group
    objective = make_objective(tuning)
    labels, units = choose_units(job, objective)
    small = measure.small(tuning, len(units), group)
    job = dataclasses.replace(job, params=dataclasses.replace(job.params, fine_tune=small))
    data = training_data(job, objective, labels, units)
    base = group.agree(lambda: prepare(job, objective, data))
    measuring = measure.Measuring(
        base.policy, objective, data, small, job.params.runtime, base.accelerator, group
    )
    if group.is_main:
        log.info("%s", measuring.cost(len(shards), tuning))
    with group.stop() as stop:
        measure.run(folder, shards, measuring, stop)
    return small.batch_size, measuring.edges
