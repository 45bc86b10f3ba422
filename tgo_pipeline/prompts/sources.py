"""Read prompts from the small world, a text file, a table, rows of the hub, or a public data set."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tgo_pipeline.prompts.normalise import normalise
from tgo_pipeline.reading import text
from tgo_pipeline.reading.places import Folder
from tgo_pipeline.reading.tables import open_table
from tgo_pipeline.storage.fingerprints import fingerprint
from tgo_pipeline.storage.stores.inputs import local_path

DEMO = "demo:"
CATEGORIES = ("category", "challenge")
"""Columns that a table of prompts may have besides."""


class Prompt(NamedTuple):
    """A prompt as its source spells it, with the benchmark category and challenge that it has there."""

    text: str
    category: str | None = None
    challenge: str | None = None


def prompts(source: str, column: str) -> Iterator[Prompt]:
    """The raw prompts of a source as `read` gives them, one at a time, with category and challenge where there are any.

    `source` may also be the address of a data set (docs/DATASETS.md). Raises what `read` raises.
    """
    from tgo_pipeline.datasets import is_dataset, open_dataset

    if is_dataset(source):
        for batch in open_dataset(source).prompts():
            yield from (Prompt(row["prompt"] or "", *_categories(row)) for row in batch.to_pylist())
    elif source.startswith(DEMO) or Path(source).suffix.lower() == ".txt":
        yield from map(Prompt, read(source, column))
    else:
        for raw, *categories in open_table(source).rows([column], CATEGORIES):
            yield Prompt(raw or "", *map(_category, categories))


def _categories(row: dict[str, str | None]) -> list[str | None]:
    return [_category(row[name]) for name in CATEGORIES]


def _category(name: str | None) -> str | None:
    """One spelling per category; None where it is blank."""
    return normalise(name or "") or None


def read(source: str, column: str) -> list[str]:
    """The raw prompts of a source, in order; a null is an empty prompt.

    `source` is `demo:<family>`, a .txt file with one prompt a line, or a table whose `column` holds them. Raises
    `TgoError` if it does not exist, is of another kind or broken, or lacks the column.
    """
    if source.startswith(DEMO):
        from tgo_pipeline import demo

        return demo.prompts(source.removeprefix(DEMO))
    path = local_path(source)
    if path.suffix.lower() == ".txt":
        with text.opened(Folder(path.parent), path.name) as stream:
            return [line.rstrip("\n") for line in text.lines(stream, source)]
    return [raw or "" for (raw,) in open_table(source).rows([column])]


def identity(source: str) -> str:
    """A hash of what a source holds. Raises `TgoError` if it does not exist."""
    from tgo_pipeline.datasets import sources

    return fingerprint(prompts=read(source, "")) if source.startswith(DEMO) else sources.identity(source)
