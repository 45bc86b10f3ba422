"""`tgo export images` and `tgo import ratings`: for people who rate with other tools."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

import typer

from stages.commands.rate import IMAGE_COLUMN, PROMPT_COLUMN, RATINGS, WHICH, columns, named_or_samples
from stages.ending import guarded

export_app = typer.Typer(no_args_is_help=True, help="Images as files, for people who rate with other tools.")
import_app = typer.Typer(no_args_is_help=True, help="Ratings that people gave with other tools.")


@export_app.callback()
@import_app.callback()
def _group() -> None:
    """Keep the name of a single command."""


@export_app.command("images")
@guarded
def export_images(
    images: list[str] = WHICH,
    count: int = typer.Option(100, "--count", "-n", min=1, metavar="N", help="How many, by chance."),
    seed: int = typer.Option(0, help="The seed of the sample."),
    to: Path = typer.Option(
        Path("to-rate"), metavar="FOLDER", help="The folder to write: images/ and ratings.csv."
    ),
    image_column: str = IMAGE_COLUMN,
    prompt_column: str = PROMPT_COLUMN,
) -> None:
    """Write a sample of the images as files, and a table to fill in that `score.feedback` reads."""
    import tempfile

    from tgo_pipeline.executors.progress import configure_logging
    from tgo_pipeline.rating import gallery, sample
    from tgo_pipeline.rendering.terminal import safe

    configure_logging()
    with tempfile.TemporaryDirectory(prefix="tgo-export-") as copies:
        found = gallery.listed(
            named_or_samples(images), columns(image_column, prompt_column), None, Path(copies)
        )
        chosen = sample.drawn(found, count, seed)
        sample.write(to, chosen)
    table = _in_yaml(safe(str(to / sample.TEMPLATE)))
    typer.echo(
        f"{safe(str(to))}: {len(chosen)} of {len(found)} images. Fill in the column rating of "
        f"{sample.TEMPLATE} (empty rows count for nothing), then name it in params.yaml:\n"
        f"score: {{feedback: {{stars: {{source: {table}, kind: rating, image: sample_id, "
        "low: 1, high: 5}}}"
    )


def _in_yaml(path: str) -> str:
    """A path as a value that can be copied into a line of YAML."""
    return path if re.fullmatch(r"[\w./][\w./-]*", path) else "'{}'".format(path.replace("'", "''"))


@import_app.command("ratings")
@guarded
def import_ratings(
    file: Path = typer.Argument(metavar="FILE", show_default=False, help="The JSON that the tool exported."),
    tool: Literal["label-studio", "argilla"] = typer.Option(
        ..., "--from", help="The tool; argilla is what `dataset.records.to_json` writes."
    ),
    to: Path = typer.Option(
        RATINGS, metavar="FILE", help="The ratings file; what is not in it yet is added."
    ),
    question: str = typer.Option(
        None, metavar="NAME", help="The question that is taken, if several were asked."
    ),
    images: list[str] = typer.Option(
        None, "--images", metavar="IMAGES", show_default=False, help="The images, if not data/generations."
    ),
) -> None:
    """Add the ratings of another tool to a ratings file, each about an image that is there."""
    import tempfile

    from tgo_pipeline.executors.progress import configure_logging
    from tgo_pipeline.rating import gallery, store
    from tgo_pipeline.rating.other_tools import judgements
    from tgo_pipeline.rendering.terminal import safe

    configure_logging()
    with tempfile.TemporaryDirectory(prefix="tgo-import-") as copies:
        found = gallery.listed(named_or_samples(images), columns(None, None), None, Path(copies))
    given = judgements(file, tool, {image.name for image in found}, question)
    added = store.append_all(to, given)
    kinds = ", ".join(sorted({each.kind for each in given}))
    typer.echo(
        f"{safe(str(to))}: {added} of {len(given)} answers added ({kinds}), {len(given) - added} were there."
    )
