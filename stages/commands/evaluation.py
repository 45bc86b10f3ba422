"""`tgo evaluation`: the tables of the evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import typer

from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.workspace import HERE, Workspace

if TYPE_CHECKING:
    from tgo_pipeline.evaluation.tables.trainings import TrainingsReport


def evaluation(
    path: Path = typer.Argument(HERE.evaluation, help="The evaluation table."),
    table: str = typer.Option(
        "evaluation", metavar="NAME", help="evaluation (tuned against base), models, matrix or hacking."
    ),
    matrix: bool = typer.Option(False, "--matrix", help="Every model against every other: --table matrix."),
    seeds: str = typer.Option(
        None,
        metavar="NAMES",
        help="Models that are one setting trained with several seeds, with commas (tuned,a,b): their mean against the "
        "base, with intervals over trainings and prompts.",
    ),
    against: str = typer.Option(
        None, metavar="NAMES", help="With --seeds: the trainings of another setting, instead of the base."
    ),
    form: str = typer.Option(
        None, "--format", metavar="NAME", help="md, tex or csv, instead of a table for the terminal."
    ),
) -> None:
    """Print the tuned model against the base model, or another table of the evaluation, with intervals."""
    from tgo_pipeline.evaluation.tables.terminal import WIDTHS, text, view
    from tgo_pipeline.rendering.terminal import WIDE, show

    name = "matrix" if matrix else table
    if seeds is None and against is not None:
        raise TgoError(
            "--against names the trainings of another setting: --seeds must name those of the first one."
        )
    if seeds is not None:
        if name != "evaluation":
            raise TgoError(f"--seeds is a table of its own: leave out {'--matrix' if matrix else '--table'}.")
        report = _trainings(path, seeds, against)
        if form is None:
            show(report.view(), WIDTHS["matrix"])
        else:
            typer.echo(report.text(form), nl=False)
    elif form is not None:
        typer.echo(text(name, path, form), nl=False)
    else:
        show(view(name, path), WIDTHS.get(name, WIDE))


def _trainings(path: Path, seeds: str, against: str | None) -> TrainingsReport:
    """Several trainings of one setting, from the scores of the project that the table belongs to."""
    from tgo_pipeline.evaluation.models import BASE, TUNED
    from tgo_pipeline.evaluation.stage import finished_scores
    from tgo_pipeline.evaluation.statistics.trainings import TrainingGroups, trainings_table
    from tgo_pipeline.evaluation.tables.trainings import TrainingsReport
    from tgo_pipeline.params import load_params
    from tgo_pipeline.storage.tables import read_metadata

    workspace = Workspace(path.parent.parent)
    if path != workspace.evaluation:
        raise TgoError(
            f"--seeds reads the scores of a project's models: PATH is {path}, it must be PROJECT/{HERE.evaluation}."
        )
    params = load_params(workspace.params)
    groups = TrainingGroups.named(seeds, against, [BASE, TUNED, *params.evaluate.models])
    scores, target = finished_scores(params, workspace)
    made = trainings_table(scores, groups, target, params.evaluate, params.seed)
    legend = read_metadata(path).get("legend", {})
    return TrainingsReport(made, params.evaluate.confidence, params.evaluate.bootstrap, legend)
