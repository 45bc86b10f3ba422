"""`tgo recipe`: parameter files for real models."""

from __future__ import annotations

from pathlib import Path

import typer

from stages.ending import guarded
from tgo_pipeline.storage.workspace import HERE

app = typer.Typer(no_args_is_help=True, help="Parameter files for real models, with the papers' settings.")


@app.command("list")
@guarded
def list_recipes() -> None:
    """Print every recipe and what it is."""
    from tgo_pipeline.params.recipes import table
    from tgo_pipeline.rendering.terminal import show

    show(table())


@app.command("show")
@guarded
def show_recipe(name: str = typer.Argument(help="A name of `tgo recipe list`.")) -> None:
    """Print a recipe with the sources of its values."""
    from tgo_pipeline.params.recipes import recipe

    typer.echo(recipe(name).text, nl=False)


@app.command("use")
@guarded
def use_recipe(
    name: str = typer.Argument(help="A name of `tgo recipe list`."),
    to: Path = typer.Option(HERE.params, metavar="FILE", help="The parameter file to write."),
    force: bool = typer.Option(False, "--force", help="Replace a file that is there."),
) -> None:
    """Write a recipe as the parameter file, as `tgo init` does, and say what is to be filled in."""
    from tgo_pipeline.params.recipes import PLACEHOLDER, use
    from tgo_pipeline.rendering.terminal import safe

    chosen = use(name, to, replace=force)
    lines = chosen.to_fill()
    pin = f" Replace {PLACEHOLDER} by the commits that you pin:" if lines else ""
    typer.echo(f"{safe(str(to))} is written.{pin}")
    for number, line in lines:
        typer.echo(f"  line {number}: {line}")
    typer.echo(f"Then: {chosen.steps}. `tgo init` writes a whole project.")
