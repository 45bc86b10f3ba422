"""`tgo evaluation`: the tables of the evaluation."""

from __future__ import annotations

from pathlib import Path

import typer

from tgo_pipeline.storage.workspace import HERE


def evaluation(
    path: Path = typer.Argument(HERE.evaluation, help="The evaluation table."),
    table: str = typer.Option(
        "evaluation", metavar="NAME", help="evaluation (tuned against base), models, matrix or hacking."
    ),
    matrix: bool = typer.Option(False, "--matrix", help="Every model against every other: --table matrix."),
    form: str = typer.Option(
        None, "--format", metavar="NAME", help="md, tex or csv, instead of a table for the terminal."
    ),
) -> None:
    """Print the tuned model against the base model, or another table of the evaluation, with intervals."""
    from tgo_pipeline.evaluation.tables.terminal import WIDTHS, text, view
    from tgo_pipeline.rendering.terminal import WIDE, show

    name = "matrix" if matrix else table
    if form is not None:
        typer.echo(text(name, path, form), nl=False)
    else:
        show(view(name, path), WIDTHS.get(name, WIDE))
