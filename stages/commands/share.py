"""The commands that share a result: `tgo card` and `tgo push`."""

from __future__ import annotations

from pathlib import Path

import typer

from stages import PARAMS, run_command
from tgo_pipeline.rendering.terminal import safe
from tgo_pipeline.storage.workspace import HERE

REPO = "ORG/NAME"
WHAT = typer.Argument("both", metavar="[model|dataset|both]", show_default=False, help="Both if not given.")


def card(
    what: str = WHAT,
    licence: str = typer.Option(
        None, "--license", metavar="ID", help="The model's licence, if not that of the base model's card."
    ),
    licence_name: str = typer.Option(None, "--license-name", metavar="NAME", help="With --license other."),
    licence_link: str = typer.Option(None, "--license-link", metavar="URL", help="With --license other."),
    data_licence: str = typer.Option(None, "--data-license", metavar="ID", help="The data set's licence."),
    model_repo: str = typer.Option(
        None, metavar=REPO, help="Where the model goes; its card loads it from there."
    ),
    dataset_repo: str = typer.Option(
        None, metavar=REPO, help="Where the data set goes; the model's card names it."
    ),
    base_model: str = typer.Option(
        None, metavar=REPO, help="The base model's name on the hub, if it lies in a folder."
    ),
    title: str = typer.Option(
        None,
        metavar="TEXT",
        help="The title of the model's card, or of the data set's if that is made alone.",
    ),
    to: Path = typer.Option(HERE.share, metavar="FOLDER", help="Writes FOLDER/model and FOLDER/dataset."),
    params: Path = PARAMS,
) -> None:
    """Write a model card and a data-set card, each beside the files it describes (as links), ready to be pushed."""
    from tgo_pipeline.params import load_params
    from tgo_pipeline.sharing import commands

    call = commands.CardCall(
        what=what,
        to=to,
        licence=licence,
        licence_name=licence_name,
        licence_link=licence_link,
        data_licence=data_licence,
        model_repo=model_repo,
        dataset_repo=dataset_repo,
        base_model=base_model,
        title=title,
    )
    run_command("card", lambda: commands.card(load_params(params), call))


def push(
    what: str = typer.Argument(metavar="model|dataset", show_default=False, help="What is uploaded."),
    repo: str = typer.Argument(
        metavar=REPO, show_default=False, help="Where it is put on the hub; created if it does not exist."
    ),
    private: bool = typer.Option(False, "--private", help="For you and your organisation alone."),
    revision: str = typer.Option(None, metavar="BRANCH", help="A branch, made if need be, instead of main."),
    update: bool = typer.Option(False, "--update", help="Write into a repository that holds other files."),
    dry_run: bool = typer.Option(False, "--dry-run", help="List files and bytes; no network is touched."),
    folder: Path = typer.Option(
        None,
        "--from",
        metavar="FOLDER",
        show_default=False,
        help="The folder with the card, if not share/WHAT.",
    ),
) -> None:
    """Upload the tuned model or the data set, with its card, to the model hub; run again, it continues."""
    from tgo_pipeline.sharing import commands

    call = commands.PushCall(
        what=what,
        repo=repo,
        folder=folder,
        revision=revision,
        private=private,
        update=update,
        dry_run=dry_run,
    )
    lines: list[str] = []
    run_command("push", lambda: lines.extend(commands.push(call)))
    for line in lines:
        typer.echo(safe(line))
