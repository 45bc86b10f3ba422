"""The command line `tgo`: run stages, see how far they are, inspect thresholds and results."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stages import STAGES, USER_ERROR, run_stage
from tgo_pipeline import __version__, paths
from tgo_pipeline.errors import TgoError

if TYPE_CHECKING:
    from rich.console import RenderableType

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Align a text-to-image model with human preference, without paired data.",
)
demo = typer.Typer(no_args_is_help=True, help="The embedded small world.")
app.add_typer(demo, name="demo")

WIDE = 110
"""Columns of a table that goes to a file or a pipe."""
PARAMS = typer.Option(Path("params.yaml"), "--params", help="The parameter file.")


def _show(renderable: RenderableType) -> None:
    from rich.console import Console

    console = Console()
    if not console.is_terminal:
        console.width = WIDE
    console.print(renderable)


def _version(value: bool) -> None:
    if value:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _main(
    version: bool = typer.Option(
        False, "--version", callback=_version, is_eager=True, help="Print the version."
    ),
) -> None:
    pass


@app.command()
def run(
    stage: str = typer.Argument(help=f"One of {', '.join(STAGES)}."),
    params: Path = PARAMS,
) -> None:
    """Run one stage: the same work as `dvc repro -s STAGE` and `python -m stages.STAGE`."""
    if stage not in STAGES:
        raise TgoError(f"{stage!r} is not a stage: it must be one of {', '.join(STAGES)}.")
    run_stage(stage, params)


@app.command()
def status(params: Path = PARAMS) -> None:
    """Show the shards of every stage that are done, stale or to do, and the samples that failed."""
    from stages.status import table
    from tgo_pipeline.params import load_params

    _show(table(load_params(params)))


@app.command()
def thresholds(path: Path = typer.Argument(paths.THRESHOLDS, help="The thresholds table.")) -> None:
    """Print the threshold statistics of every reward."""
    from tgo_pipeline.thresholds.view import show

    _show(show(path))


@app.command()
def evaluation(path: Path = typer.Argument(paths.EVALUATION, help="The evaluation table.")) -> None:
    """Print the tuned model against the base model, with intervals."""
    from tgo_pipeline.evaluation.view import show

    _show(show(path))


@demo.command("train")
def demo_train(
    output: Path = typer.Option(Path("demo-weights"), help="The folder for the new weights."),
    seed: int = typer.Option(0, help="The seed of everything."),
) -> None:
    """Train the small world's model and its five reward models again from nothing (about an hour on two cores)."""
    from tgo_pipeline.demo.train import train

    train(output, seed=seed)


def main() -> None:
    """Entry point: an error of the input is one line on standard error and exit code 2."""
    try:
        app()
    except TgoError as error:
        sys.stderr.write(f"tgo: {error}\n")
        raise SystemExit(USER_ERROR) from None


if __name__ == "__main__":
    main()
