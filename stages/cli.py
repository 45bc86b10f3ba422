"""The command line `tgo`: score images, run stages, see how far they are, inspect thresholds and results."""

from __future__ import annotations

import sys

import typer

from stages import USER_ERROR
from stages.commands import (
    demo,
    doctor,
    evaluation,
    plan,
    presets,
    recipe,
    run,
    score,
    share,
    status,
    sweep,
    thresholds,
)
from tgo_pipeline import __version__
from tgo_pipeline.errors import TgoError

COMMANDS = (
    share.card,
    share.push,
    plan.plan,
    doctor.doctor,
    score.score,
    run.run,
    status.status,
    thresholds.thresholds,
    evaluation.evaluation,
    presets.presets,
    sweep.sweep,
)
"""In the order of `tgo --help`. A command is a function with its options, in a file of its own."""
GROUPS = {"demo": demo.app, "recipe": recipe.app}
"""Commands that have commands of their own."""
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Align a text-to-image model with human preference, without paired data.",
)
for command in COMMANDS:
    app.command()(command)
for name, group in GROUPS.items():
    app.add_typer(group, name=name)


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


def main() -> None:
    """Entry point: an error of the input is one line on standard error and exit code 2."""
    try:
        app()
    except TgoError as error:
        sys.stderr.write(f"tgo: {error}\n")
        raise SystemExit(USER_ERROR) from None


if __name__ == "__main__":
    main()
