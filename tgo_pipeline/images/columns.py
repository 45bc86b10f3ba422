"""Which column of a table holds the images, and which the prompts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tgo_pipeline.errors import TgoError, listed
from tgo_pipeline.images.base import FILE_NAME

CLIP_COLUMNS = ("video", "video_path", "video_url")
IMAGE_COLUMNS = ("image", FILE_NAME, "path", "image_path", "image_url", "url", *CLIP_COLUMNS)
PROMPT_COLUMNS = ("prompt", "caption", "text")
IMAGE_OPTION = "--image-column of `tgo score`, or generate.image_column"
PROMPT_OPTION = "--prompt-column of `tgo score`, or generate.prompt_column"

PROMPT_ADVICE = (
    "give a metadata.csv with file_name and prompt in their folder, a .txt file beside each image, or name the column "
    f"of their table ({PROMPT_OPTION})"
)


@dataclass(frozen=True)
class Columns:
    """The columns that a call names; None takes the first usual name that a table has.

    `prompts` is False where prompts come from elsewhere, so that a table needs no column for them. `importing` is how
    `generate.images` reads: a list in a folder (metadata, or Parquet) goes before its files, `file_name` before other
    columns of paths, and a list names files inside its own folder alone, since the images may be published later.
    """

    image: str | None = None
    prompt: str | None = None
    prompts: bool = True
    importing: bool = False

    def image_in(self, where: object, found: Sequence[str], *, paths: bool = False) -> str:
        """The image column of a table (`paths`: of one that can hold nothing else). Raises `TgoError` if none is."""
        if not self.importing:
            return _choose(where, found, self.image, IMAGE_COLUMNS) or _refuse(where, found)
        usual = (self.image, FILE_NAME) if self.image else IMAGE_COLUMNS
        chosen = next((name for name in ((FILE_NAME,) if paths else ()) + usual if name in found), None)
        return chosen or _choose(where, found, self.image, ()) or _refuse(where, found)

    def prompt_in(self, where: object, found: Sequence[str]) -> str | None:
        """The prompt column of a table, None if it has none. Raises `TgoError` if the named one is not there."""
        return _choose(where, found, self.prompt, PROMPT_COLUMNS) if self.prompts else None


def _choose(where: object, found: Collection[str], named: str | None, usual: Sequence[str]) -> str | None:
    if named is None:
        return next((name for name in usual if name in found), None)
    if named not in found:
        raise TgoError(f"{where} has no column {named!r}; its columns are: {listed(found)}.")
    return named


def _refuse(where: object, found: Collection[str]) -> str:
    raise TgoError(
        f"{where} has no column {' or '.join(map(repr, IMAGE_COLUMNS))}: name the one that holds the images "
        f"({IMAGE_OPTION}); its columns are: {listed(found)}."
    )
