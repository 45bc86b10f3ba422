"""Which prompt an image is scored with: its own, one for all, a line or a row of a file."""

from __future__ import annotations

import logging
import os
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tgo_pipeline.errors import TgoError, listed
from tgo_pipeline.formats import spelling
from tgo_pipeline.images.base import FILE_NAME, Row
from tgo_pipeline.images.columns import IMAGE_COLUMNS, PROMPT_ADVICE, PROMPT_COLUMNS, Columns
from tgo_pipeline.images.tables import ID
from tgo_pipeline.prompts.sources import read
from tgo_pipeline.reading.tables import Record, open_table
from tgo_pipeline.storage.fingerprints import content_fingerprint
from tgo_pipeline.storage.stores.inputs import local_path

log = logging.getLogger("tgo")


class PromptLookup(ABC):
    """Gives every row its prompt; `advice` is the end of the error about rows without one."""

    advice: str

    @abstractmethod
    def of(self, number: int, row: Row) -> str | None:
        """The prompt of a row; `number` counts rows over all sources. None if it has none."""

    def leaves_open(self, row: Row) -> bool:
        """Whether a row that has no prompt is listed with an empty one: it then costs that row alone."""
        return False

    def key(self) -> Any:
        """A JSON value that is another one when an image that was not seen yet may get another prompt."""
        return None

    def finish(self, count: int) -> None:
        """Called once all `count` rows were asked for: raises `TgoError`, or warns of prompts left over."""
        return


class OwnPrompts(PromptLookup):
    """What comes with the images: a column of their table, or metadata in their folder."""

    advice = f"give --prompts FILE, --prompt TEXT for all of them, or {PROMPT_ADVICE}"

    def of(self, number: int, row: Row) -> str | None:
        return row.prompt

    def leaves_open(self, row: Row) -> bool:
        return row.captioned


class OnePrompt(PromptLookup):
    """One prompt for all images."""

    advice = "give --prompt TEXT"

    def __init__(self, prompt: str) -> None:
        self._prompt = prompt

    def of(self, number: int, row: Row) -> str | None:
        return self._prompt

    def key(self) -> Any:
        return self._prompt


class PromptLines(PromptLookup):
    """A text file with one prompt a line, in the order of the images."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines = read(str(path), "")
        self.advice = f"{path} must have one line for each image"

    def of(self, number: int, row: Row) -> str | None:
        return self._lines[number] if number < len(self._lines) else ""

    def finish(self, count: int) -> None:
        if count != len(self._lines):
            raise TgoError(
                f"{self._path} has {len(self._lines):,} lines and there are {count:,} images: give one line for each "
                "image in their order (a folder is sorted by path), or a csv with file_name and prompt."
            )


class PromptTable(PromptLookup):
    """A csv, jsonl or Parquet file of names and prompts.

    An image is looked up by its name in the output, by its path within the folder that was named, and by its path
    seen from the file.
    """

    def __init__(self, path: Path, columns: Columns) -> None:
        table = open_table(path)
        names = table.names
        prompt = columns.prompt_in(path, names)
        name = next((name for name in (FILE_NAME, *IMAGE_COLUMNS, ID) if name in names), None)
        if prompt is None or name is None:
            wanted = f"{FILE_NAME} and prompt" if name is None else " or ".join(PROMPT_COLUMNS)
            raise TgoError(f"{path} has no column {wanted}; its columns are: {listed(names)}.")
        self._path = path
        self._prompts = _mapping(
            path, ((image, table.stated(text)) for image, text in table.rows([name, prompt]))
        )
        self._used: set[str] = set()
        self.advice = (
            f"add them to {path}, whose {name} is a path as named on the command line or within its folder"
        )

    def of(self, number: int, row: Row) -> str | None:
        key = self._key_of(row)
        if key is None:
            return None
        self._used.add(key)
        return self._prompts[key]

    def leaves_open(self, row: Row) -> bool:
        return self._key_of(row) is not None

    def _key_of(self, row: Row) -> str | None:
        """The name under which the table has an image."""
        names = (row.image, *row.names, os.path.relpath(row.image, self._path.parent))
        return next((key for key in map(spelling.key, names) if key in self._prompts), None)

    def key(self) -> Any:
        return content_fingerprint(self._path)

    def finish(self, count: int) -> None:
        unused = self._prompts.keys() - self._used
        if unused:
            log.warning(
                "%s: %s of %s rows name no image that is scored, such as %s",
                *(self._path, f"{len(unused):,}", f"{len(self._prompts):,}", min(unused)),
            )


def _mapping(path: Path, records: Iterable[Record]) -> dict[str, str | None]:
    """Names to prompts. Raises `TgoError` if one name has two different prompts."""
    found: dict[str, str | None] = {}
    for number, (name, text) in enumerate(records, start=1):
        key = spelling.key(name or "")
        if found.setdefault(key, text) != text:
            raise TgoError(
                f"{path}, row {number}: {name!r} has another prompt in an earlier row: keep one of them."
            )
    return found


def choose(file: str | Path | None, text: str | None, columns: Columns) -> PromptLookup:
    """The prompts that a call asks for. Raises `TgoError` if it asks for two kinds, or the file cannot be used."""
    if file is not None and text is not None:
        raise TgoError(
            "--prompts and --prompt are both given: the first is a file, the second one text for all."
        )
    if text is not None:
        if not text.isprintable() and any("\ud800" <= letter <= "\udfff" for letter in text):
            raise TgoError("--prompt is not text in UTF-8: check the encoding of the terminal.")
        return OnePrompt(text)
    if file is None:
        return OwnPrompts()
    path = local_path(file)
    return PromptLines(path) if path.suffix.lower() == ".txt" else PromptTable(path, columns)
