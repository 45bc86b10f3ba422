"""Which objective aligns the small world best? Tunes every method alike, runs seeds, ablations and a search.

    python -m benchmarks.objectives run --processes 2        # hours on two cores; resumes, and takes more processes
    python -m benchmarks.objectives report                   # RESULTS.md, objectives.json, figure
    python -m benchmarks.objectives tuning                   # the trials so far
    python -m benchmarks.objectives keep                     # results into the repository, from which runs begin,
    python -m benchmarks.objectives run --fresh --work new   # unless they are told not to

Phases: `tune` (validation captions, two seeds; all noise levels and a range of them), `main` (test captions, every
seed, more for the leaders), `search` (ideas on top of chosen settings, validation captions), `levels` (TGO with other
ranges of noise levels, measured ones and importance, test captions), `budget` (twice the samples an update, test
captions), `ablate` (TGO on the range of noise levels, test captions, fewer seeds).
A unit is a method with its settings for one family, seed and split; its result is a file in the work folder, so that
a run stops and continues anywhere, and several runs at once share the work.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from pathlib import Path

import typer

from benchmarks.objectives.kept import pack, unpack
from benchmarks.objectives.plan import SEEDS
from benchmarks.objectives.units import ROOT, Study
from benchmarks.objectives.work import PHASES, plans_of, serve, units
from benchmarks.results import RESULTS, machine, replace_section, rounded
from tgo_pipeline.errors import TgoError

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__)
WORK = ROOT / "tmp/objectives"

Families = typer.Option(
    "demo,demo-masked", help="Families, separated by commas; `family=folder` for other weights."
)
Seeds = typer.Option(",".join(map(str, SEEDS)), help="Run seeds, separated by commas.")
Work = typer.Option(WORK, help="Where the runs take place and results are kept; resumed if it is there.")


def begun(work: Path) -> Study:
    """The study of a work folder; a new one begins with the repository's results."""
    unpack(work)
    return Study.of_demo(work)


@app.command()
def run(
    families: str = Families,
    seeds: str = Seeds,
    phases: str = typer.Option(",".join(PHASES), help="Phases, separated by commas."),
    processes: int = typer.Option(
        1, help="Worker processes, one thread each; another run may join at any time."
    ),
    fresh: bool = typer.Option(
        False, "--fresh", help="Begin a new work folder with nothing, not with the repository's results."
    ),
    work: Path = Work,
) -> None:
    """Run what has no result yet."""
    unknown = set(phases.split(",")) - set(PHASES)
    if unknown:
        raise TgoError(f"--phases names {', '.join(sorted(unknown))}: it knows {', '.join(PHASES)}.")
    if not fresh:
        unpack(work)
    context = multiprocessing.get_context("spawn")
    shared = (work, families.split(","), [int(seed) for seed in seeds.split(",")], phases.split(","))
    workers = [context.Process(target=serve, args=(*shared, rank)) for rank in range(processes)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    if any(worker.exitcode for worker in workers):
        raise TgoError(
            "a worker process failed, its message is above; what is finished is kept: run it again."
        )


@app.command()
def keep(work: Path = Work) -> None:
    """Write the results of the work folder into files of the repository."""
    typer.echo(f"{pack(begun(work))} units")


@app.command()
def tuning(families: str = Families, work: Path = Work) -> None:
    """Print the trials that have run, and what the search tried besides them."""
    from benchmarks.objectives.tables import trial_table, tuning_table

    for plan in plans_of(begun(work), families.split(","), SEEDS):
        searched = trial_table(plan.searched(), plan.target)
        typer.echo(f"\n{plan.family}: trials\n\n{tuning_table(plan)}\n\n{plan.family}: search\n\n{searched}")


@app.command()
def report(
    families: str = Families,
    seeds: str = Seeds,
    work: Path = Work,
    output: Path = typer.Option(RESULTS, help="The markdown file; numbers and figure are written beside it."),
) -> None:
    """Write tables, numbers and figure of what has run."""
    from benchmarks.objectives import figure as objectives_figure
    from benchmarks.objectives import report as objectives_report

    study = begun(work)
    plans = plans_of(study, families.split(","), [int(seed) for seed in seeds.split(",")])
    numbers = objectives_report.collect(study, plans, units, machine())
    if not numbers["families"]:
        raise TgoError(f"{work} holds no result of the test captions yet: run `objectives run` first.")
    replace_section(output, "objectives", objectives_report.markdown(study, plans, units, numbers))
    output.with_name("objectives.json").write_text(json.dumps(rounded(numbers), indent=1) + "\n")
    objectives_figure.write(numbers["families"], numbers["target"], output.with_name("objectives.svg"))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    try:
        app()
    except TgoError as error:
        sys.exit(f"objectives: {error}")
