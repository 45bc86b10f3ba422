"""Worker processes that share the units of the study: each takes what has no result and nobody else is running.

Not in `__main__`: a process that is started again (spawn) does not import the `__main__` of a package again,
and would not find a function of it.
"""

from __future__ import annotations

import fcntl
import json
import logging
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from benchmarks.objectives.plan import Plan
from benchmarks.objectives.units import Result, Study, Unit

log = logging.getLogger("tgo")
PHASES = ("tune", "main", "search", "levels", "budget", "ablate")
POLL_S = 5.0


def units(plan: Plan, phase: str) -> Iterator[Unit]:
    """The units of a phase that are known by now: later ones need the choice among earlier ones."""
    phases: dict[str, Callable[[], Iterator[Unit]]] = {
        "tune": plan.tune,
        "main": plan.main,
        "search": plan.search,
        "levels": plan.levels,
        "budget": plan.budget,
        "ablate": plan.ablate,
    }
    return phases[phase]()


def waiting(plans: Sequence[Plan], phases: Sequence[str]) -> Iterator[Unit]:
    """Units without a result, family after family, phase after phase."""
    for plan in plans:
        for phase in phases:
            yield from (unit for unit in units(plan, phase) if plan.study.result(unit) is None)


def work_off(plans: Sequence[Plan], phases: Sequence[str], *, from_the_end: bool = False) -> None:
    """Run units that nobody else is running until none is left, or the process that began this one is gone.

    Units of one seed wait for its data: two processes that begin at either end do not wait for the same.
    """
    from benchmarks.objectives.run import run_unit

    parent = multiprocessing.parent_process()
    while todo := list(waiting(plans, phases)):
        if parent is not None and not parent.is_alive():
            return
        study = plans[0].study
        for unit in reversed(todo) if from_the_end else todo:
            path = study.result_path(unit)
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.with_suffix(".lock").open("w") as stream:
                try:
                    fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    continue
                if not path.is_file():
                    log.info("%s", line(run_unit(study, unit), plans[0].target))
                    break
        else:
            time.sleep(POLL_S)  # the rest is with other processes


def line(result: Result, target: str) -> str:
    """A result in one line."""
    unit = result.unit
    what = f"RESULT {unit.split} {unit.family} {unit.seed} {unit.method} {json.dumps(dict(unit.settings))}"
    if not result.rows:
        return f"{what}: failed: {result.failed}"
    effects = (f"{name} {result.value(name):+.3f}" for name in (target, "oracle"))
    return f"{what}: {', '.join(effects)} in {sum(result.seconds.values()):.0f} s"


def serve(
    work: Path, families: Sequence[str], seeds: Sequence[int], phases: Sequence[str], rank: int
) -> None:
    """One worker process."""
    import torch

    logging.basicConfig(
        level=logging.WARNING, format="%(asctime)s %(message)s", datefmt="%H:%M:%S", stream=sys.stderr
    )
    log.setLevel(logging.INFO)
    torch.set_num_threads(1)
    log.info("process %d (%d) begins", rank, os.getpid())
    work_off(plans_of(Study.of_demo(work), families, seeds), phases, from_the_end=rank % 2 == 1)


def plans_of(study: Study, families: Sequence[str], seeds: Sequence[int]) -> list[Plan]:
    """A plan for each family; `family=folder` takes the family's weights from a folder."""
    named = (family.partition("=") for family in families)
    return [Plan(study, family, folder or family, seeds) for family, _, folder in named]
