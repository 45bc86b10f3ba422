"""`tgo init` and `tgo recipe`: a project of one's own, and the parameter files that it begins with."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from stages.ending import guarded
from tgo_pipeline.storage.workspace import HERE

if TYPE_CHECKING:
    from tgo_pipeline.params.recipes import Recipe

app = typer.Typer(no_args_is_help=True, help="Parameter files for real models, with the papers' settings.")


def init(
    folder: Path = typer.Argument(
        Path(), metavar="[FOLDER]", help="Where; it may be new.", show_default="here"
    ),
    recipe: str | None = typer.Option(None, help="A name of `tgo recipe list`."),
    demo: bool = typer.Option(
        False, "--demo", help="The small world that ships: minutes on a laptop, no download."
    ),
) -> None:
    """Begin a project: parameters, the pipeline of DVC, a git repository. Nothing that is there is overwritten."""
    from tgo_pipeline.errors import TgoError
    from tgo_pipeline.params import recipes
    from tgo_pipeline.rendering.terminal import safe
    from tgo_pipeline.storage.project import begin_repository, make_project

    if demo == (recipe is not None):
        raise TgoError(
            f"say what the project aligns: --demo, or one of --recipe {', '.join(recipes.recipes())} "
            "(`tgo recipe list` says what they are)."
        )
    chosen = recipes.recipe(recipe or recipes.DEMO)
    written = make_project(folder, chosen.text)
    is_new = begin_repository(folder, written)
    typer.echo(
        f"{safe(str(folder.resolve()))} is a project of {chosen.name}" + (", with git." if is_new else ".")
    )
    _say_placeholders(chosen, HERE.params)
    enter = "" if folder.resolve() == Path.cwd() else f"cd {shlex.quote(safe(str(folder)))}, "
    typer.echo(f"Then: {enter}{chosen.steps} (or dvc repro).")


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
    from tgo_pipeline.params.recipes import use
    from tgo_pipeline.rendering.terminal import safe

    chosen = use(name, to, replace=force)
    typer.echo(f"{safe(str(to))} is written.")
    _say_placeholders(chosen, to)
    typer.echo(f"Then: {chosen.steps}. `tgo init` writes a whole project.")


def _say_placeholders(chosen: Recipe, file: Path) -> None:
    """The lines of a parameter file that are to be filled in, if there are any."""
    from tgo_pipeline.params.recipes import PLACEHOLDER
    from tgo_pipeline.rendering.terminal import safe

    if lines := chosen.to_fill():
        typer.echo(f"Replace {PLACEHOLDER} in {safe(str(file))} by the commits that you pin:")
        for number, line in lines:
            typer.echo(f"  line {number}: {line}")
