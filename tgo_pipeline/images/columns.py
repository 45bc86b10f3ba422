"""Which column of a table holds the pictures, and which the prompts."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from tgo_pipeline.errors import TgoError
from tgo_pipeline.images.import_folder import FILE_NAME

IMAGE_COLUMNS = ("image", FILE_NAME, "path", "image_path")
PROMPT_COLUMNS = ("prompt", "caption", "text")


@dataclass(frozen=True)
class Columns:
    """The columns that a call names; None takes the first usual name that a table has.

    `prompts` is False where prompts come from elsewhere, so that a table needs no column for them.
    """

    image: str | None = None
    prompt: str | None = None
    prompts: bool = True

    def image_in(self, where: object, found: Sequence[str]) -> str:
        """The image column of a table. Raises `TgoError` if there is none."""
        return _choose(where, found, self.image, IMAGE_COLUMNS) or _refuse(where, found)

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
        f"{where} has no column {' or '.join(map(repr, IMAGE_COLUMNS))}: name the one that holds the pictures with "
        f"--image-column; its columns are: {listed(found)}."
    )


def listed(names: Collection[str]) -> str:
    """Column names for a message."""
    return ", ".join(map(str, names)) or "none"
