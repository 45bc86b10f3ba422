"""The command line `tgo`: score images, run stages, see how far they are, inspect thresholds and results."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperGroup

from stages.commands import (
    demo,
    doctor,
    evaluation,
    exchange,
    objectives,
    plan,
    rate,
    recipe,
    run,
    score,
    share,
    status,
    sweep,
    thresholds,
)
from stages.ending import guarded
from tgo_pipeline import __version__
from tgo_pipeline.rendering.terminal import prepare_streams, safe

COMMANDS = (
    recipe.init,
    share.card,
    share.push,
    plan.plan,
    doctor.doctor,
    score.score,
    score.verify_rewards,
    rate.rate,
    run.run,
    status.status,
    thresholds.thresholds,
    evaluation.evaluation,
    objectives.presets,
    objectives.levels,
    sweep.sweep,
)
"""In the order of `tgo --help`. A command is a function with its options, in a file of its own."""
GROUPS = {
    "demo": demo.app,
    "env": score.env,
    "recipe": recipe.app,
    "export": exchange.export_app,
    "import": exchange.import_app,
}
"""Commands that have commands of their own."""
CALL_ERROR: Any = typer.BadParameter.__mro__[2]
"""What is raised for a call that cannot be understood: click's ClickException, which typer has in a copy of its own."""


class _Group(TyperGroup):
    """Errors of the call repeat what was typed: nothing in it may act on the terminal."""

    def make_context(self, *arguments: Any, **options: Any) -> Any:
        return _harmless(lambda: super(_Group, self).make_context(*arguments, **options))

    def invoke(self, ctx: Any) -> Any:
        return _harmless(lambda: super(_Group, self).invoke(ctx))


def _harmless(call: Callable[[], Any]) -> Any:
    try:
        return call()
    except CALL_ERROR as error:
        error.message = safe(error.message)
        raise


app = typer.Typer(
    cls=_Group,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="Align a text-to-image model with human preference, without paired data.",
)
for command in COMMANDS:
    app.command()(guarded(command))
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
    prepare_streams()
    app()


if __name__ == "__main__":
    main()
