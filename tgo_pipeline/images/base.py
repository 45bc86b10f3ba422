"""What images that already exist are taken from: a list of them, and their bytes in the order of that list."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
FILE_NAME = "file_name"


class Entry(NamedTuple):
    """An image at its source: raw prompt, what the source calls it, its generator, and where it is (JSON or paths)."""

    prompt: str | None
    uid: str | None
    model: str | None
    at: Any


class Picture(NamedTuple):
    """The stored bytes of an image and its name at the source; no bytes if the file is missing."""

    data: bytes | None
    name: str | None


class ImageSource(ABC):
    """A place that lists images cheaply and gives their bytes one at a time."""

    @abstractmethod
    def entries(self) -> Iterator[Entry]:
        """Every image, in order; no image is read. Raises `TgoError` if the source cannot be read."""

    @abstractmethod
    def states(self, entries: Sequence[Entry]) -> list[Any]:
        """What the bytes of each image depend on."""

    @abstractmethod
    def pictures(self, entries: Sequence[Entry]) -> Iterator[Picture]:
        """The bytes of some of `entries()`, in the same order."""
