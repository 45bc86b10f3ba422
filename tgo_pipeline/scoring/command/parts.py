"""The rows of all sources in parts: the unit that is scored, written and never scored again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

from tgo_pipeline.images.base import ImageSource, Row
from tgo_pipeline.scoring.command.kept import Keys, as_keys, row_key
from tgo_pipeline.scoring.command.prompts import PromptLookup
from tgo_pipeline.storage.fingerprints import fingerprint

VERSION = 1
"""Raise it when the same images and prompts would give other rows."""
EXAMPLES = 4  # names in an error's one line


@dataclass(frozen=True)
class Part:
    """Rows `start` to `stop` of a source (fewer at the end of a stream); `first` counts rows over all sources.

    Equal fingerprints mean the same images under the same names with the same prompts.
    """

    source: ImageSource
    prompts: PromptLookup
    start: int
    stop: int
    first: int
    fingerprint: str

    def rows(self) -> Iterator[tuple[Row, str | None]]:
        """Every row with its prompt, one image in memory at a time."""
        for number, row in enumerate(self.source.rows(self.start, self.stop), self.first):
            yield row, self.prompts.of(number, row)

    def labels(self) -> dict[str, list[str | None]]:
        """The name of every image and its prompt, as columns."""
        rows = [(row.image, prompt) for row, prompt in self.rows()]
        return {"image": [image for image, _ in rows], "prompt": [prompt for _, prompt in rows]}

    @cached_property
    def keys(self) -> Keys | None:
        """The keys of the rows (`kept.row_key`); None where the images would have to be read for them."""
        if not self.source.files:
            return None
        return as_keys([row_key(row.content, prompt) for row, prompt in self.rows()])


@dataclass
class Unprompted:
    """Images without a prompt: how many, some of them, and how many are listed with an empty one."""

    count: int = 0
    left_open: int = 0
    examples: list[str] = field(default_factory=list)

    def add(self, image: str, *, left_open: bool) -> None:
        """Count one, and keep its name if it is among the first."""
        self.count += 1
        self.left_open += left_open
        if self.count <= EXAMPLES:
            self.examples.append(image if self.count < EXAMPLES else "...")


def listed_parts(
    source: ImageSource, count: int, prompts: PromptLookup, size: int, first: int, unprompted: Unprompted
) -> list[Part]:
    """The parts of a source of `count` rows; looks at names, prompts and dates, opens no image."""
    return [
        _listed(source, start, min(start + size, count), prompts, first + start, unprompted)
        for start in range(0, count, size)
    ]


def _listed(
    source: ImageSource, start: int, stop: int, prompts: PromptLookup, first: int, unprompted: Unprompted
) -> Part:
    rows = []
    for number, row in enumerate(source.labels(start, stop), first):
        prompt = prompts.of(number, row)
        rows.append((row.image, prompt))
        if prompt is None:
            unprompted.add(row.image, left_open=prompts.leaves_open(row))
    content = fingerprint(version=VERSION, key=source.key(start, stop), rows=rows)
    return Part(source, prompts, start, stop, first, content)


def streamed_part(source: ImageSource, start: int, size: int, prompts: PromptLookup) -> Part:
    """A part of a stream, known by its place: neither its images nor its prompts are seen before they are scored."""
    key = source.key(start, start + size)
    content = fingerprint(version=VERSION, key=key, prompts=prompts.key())
    return Part(source, prompts, start, start + size, start, content)
