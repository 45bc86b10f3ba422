"""`tgo rate`: a page on this machine where people rate images, or choose between two of one prompt."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer

from stages import PARAMS
from tgo_pipeline.storage.workspace import HERE

if TYPE_CHECKING:
    from tgo_pipeline.images.columns import Columns
    from tgo_pipeline.rating.gallery import RatableImage
    from tgo_pipeline.rating.session import RatingSession
    from tgo_pipeline.rating.store import RatingStore

RATINGS = Path("ratings.jsonl")
WHICH = typer.Argument(
    None,
    metavar="[IMAGES...]",
    show_default=False,
    help="Images, folders, patterns, tables or addresses, as of `tgo score`; data/generations if not given.",
)
IMAGE_COLUMN = typer.Option(
    None, metavar="NAME", help="The column of images, if not image, file_name or path."
)
PROMPT_COLUMN = typer.Option(
    None, metavar="NAME", help="The column of prompts, if not prompt, caption or text."
)


def rate(
    images: list[str] = WHICH,
    to: Path = typer.Option(RATINGS, metavar="FILE", help="The ratings file; answers are added to it."),
    ask: Literal["stars", "thumbs", "pairs"] = typer.Option(
        "stars", help="1 to 5 stars or a thumb for one image, or a choice between two of one prompt."
    ),
    order: Literal["random", "fewest", "tau", "disagree"] = typer.Option(
        "random",
        help="What comes first: the same random images for everybody, those with the fewest answers, those whose score "
        "is nearest to tau, or those on which the rewards disagree.",
    ),
    seed: int = typer.Option(0, help="The seed of the order."),
    limit: int = typer.Option(None, min=1, metavar="N", help="Take the first N images."),
    port: int = typer.Option(0, min=0, max=65535, metavar="N", help="The port; 0 is any that is free."),
    browser: bool = typer.Option(True, help="Open the page in the browser, if there is a screen."),
    summary: bool = typer.Option(False, "--summary", help="Print what the ratings file holds, and end."),
    image_column: str = IMAGE_COLUMN,
    prompt_column: str = PROMPT_COLUMN,
    params: Path = PARAMS,
) -> None:
    """Rate images on a page of this machine, into a file that `score.feedback` reads; run again, it goes on."""
    import tempfile

    from tgo_pipeline.executors.progress import configure_logging
    from tgo_pipeline.rating import gallery, store

    configure_logging()
    if summary:
        _show(to)
        return
    addresses = named_or_samples(images)
    with tempfile.TemporaryDirectory(prefix="tgo-rate-") as copies:
        found = gallery.listed(addresses, columns(image_column, prompt_column), limit, Path(copies))
        with store.opened(to) as answers:
            _serve(_session(found, answers, ask, order, seed, params), port, browser)
    _show(to)


def named_or_samples(images: list[str] | None) -> list[str]:
    """The addresses of a call, or the samples of this project. Raises `TgoError` if there are none."""
    from tgo_pipeline.errors import TgoError

    if not images and not HERE.generations.is_dir():
        raise TgoError(
            f"{HERE.generations} does not exist (looked in {Path.cwd()}): run the generate stage first (`tgo run "
            "generate`, or `dvc repro generate`), or name images."
        )
    return images or [str(HERE.generations)]


def columns(image: str | None, prompt: str | None) -> Columns:
    """The columns that a call names."""
    from tgo_pipeline.images.columns import Columns

    return Columns(image, prompt)


def _session(
    found: list[RatableImage], answers: RatingStore, ask: str, order: str, seed: int, params: Path
) -> RatingSession:
    """What is asked about the images. Raises `TgoError` if it, or its order, cannot be."""
    from dataclasses import replace

    from tgo_pipeline.params import load_params
    from tgo_pipeline.rating import order as orders
    from tgo_pipeline.rating.session import RatingSession

    images = orders.shuffled(found, seed)
    session = RatingSession(images, answers, ask, order == "fewest", seed)
    if not session.questions or order in ("random", "fewest"):
        return session
    return replace(
        session, urgency=orders.urgency(order, images, session.questions, load_params(params), HERE)
    )


def _serve(session: RatingSession, port: int, browser: bool) -> None:
    """Serve the page until the command is interrupted."""
    import contextlib
    import webbrowser

    from tgo_pipeline.rating.server import RatingServer
    from tgo_pipeline.rendering.terminal import safe

    with RatingServer(session, port) as server:
        typer.echo(
            f"{len(session.images)} images, {len(session.questions)} questions; answers go to "
            f"{safe(str(session.store.path))}. Ctrl+C ends, and nothing is lost.\n{server.address}"
        )
        if browser and sys.stdout.isatty() and _has_screen():
            webbrowser.open(server.address)
        with contextlib.suppress(KeyboardInterrupt):
            server.serve_forever()


def _has_screen() -> bool:
    """Whether a browser would have a window: one for the terminal would take it over."""
    return sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


def _show(path: Path) -> None:
    """Print what a ratings file holds."""
    from tgo_pipeline.feedback.ratings_file import read_records, standing
    from tgo_pipeline.rating.summary import sheets
    from tgo_pipeline.rendering.terminal import sheet_parts, show

    found = sheets(standing(read_records(path)[0]))
    for sheet in found:
        for part in sheet_parts(sheet):
            show(part)
    if not found:
        typer.echo("No answer yet.")
