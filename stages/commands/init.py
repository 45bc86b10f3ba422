"""`tgo init`: a project of one's own."""

from __future__ import annotations

from pathlib import Path

import typer


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
    if lines := chosen.to_fill():
        typer.echo(f"Replace {recipes.PLACEHOLDER} in params.yaml by the commits that you pin:")
        for number, line in lines:
            typer.echo(f"  line {number}: {line}")
    enter = "" if folder.resolve() == Path.cwd() else f"cd {safe(str(folder))}, "
    typer.echo(f"Then: {enter}{chosen.steps} (or dvc repro).")
