"""Where the files of a data set are: a folder on this machine, or a pinned revision on the hub read in ranges."""

from __future__ import annotations

import contextlib
import os
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from fnmatch import fnmatch
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, cast

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.files import open_regular, read_bytes
from tgo_pipeline.formats.spelling import on_disk
from tgo_pipeline.hub.errors import RAISED, Unavailable, refusal
from tgo_pipeline.hub.route import require_route

if TYPE_CHECKING:
    from huggingface_hub import HfFileSystem

BLOCK_BYTES = 64 * 1024
"""What is read ahead from the hub: columns without images are short runs between long ones."""


class Place(ABC):
    """Files under relative names; `only` is the one file that was named, if one was."""

    name: str
    only: str | None
    hint = ""
    """What to do when reading breaks off."""

    @property
    def own_errors(self) -> tuple[type[Exception], ...]:
        """What a stream raises that says nothing of what the file holds."""
        return ()

    @abstractmethod
    def find(self, *patterns: str) -> list[str]:
        """The names that fit one of the patterns (as in a shell), sorted; the one that was named, if one was."""

    @abstractmethod
    def open(self, name: str) -> contextlib.AbstractContextManager[BinaryIO]:
        """A file to read and seek in. Raises `TgoError` if it is missing or cannot be read."""

    def open_arrow(self, name: str) -> contextlib.AbstractContextManager[Any]:
        """A file for Arrow to read, as `open` gives it."""
        return self.open(name)

    @abstractmethod
    def identity(self, names: Sequence[str]) -> Any:
        """What the content of the files depends on."""

    def where(self, name: str) -> str:
        """A file in words."""
        return f"{self.name}/{name}".rstrip("/")


class Folder(Place):
    """A folder of this machine, or one file of it."""

    def __init__(self, root: Path, only: str | None = None) -> None:
        self.root = root
        self.name = str(root)
        self.only = only

    def find(self, *patterns: str) -> list[str]:
        if self.only is not None:
            return [self.only]
        found = {path for pattern in patterns for path in self.root.glob(pattern) if path.is_file()}
        return sorted(str(path.relative_to(self.root)) for path in found)

    def where(self, name: str) -> str:
        return str(self.root / name)

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        try:
            stream = open_regular(on_disk(self.root, name))
        except FileNotFoundError as error:
            raise TgoError(f"{self.where(name)} does not exist (looked in {Path.cwd()}).") from error
        except OSError as error:
            raise TgoError(f"{self.where(name)} cannot be read: {error.strerror or error}.") from error
        with stream:
            yield stream

    @contextlib.contextmanager
    def open_arrow(self, name: str) -> Iterator[Any]:
        """Without Python between: its buffers would be one more copy of every page."""
        import pyarrow as pa

        with self.open(name), pa.OSFile(on_disk(self.root, name)) as stream:
            yield stream

    def read(self, name: str) -> bytes | None:
        """The content of a file; None if it is missing. Raises `TgoError` if it cannot be read."""
        try:
            return read_bytes(on_disk(self.root, name))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None
        except OSError as error:
            raise TgoError(f"{self.where(name)} cannot be read: {error.strerror or error}.") from error

    def identity(self, names: Sequence[str]) -> list[Any]:
        return [(name, *(self.date(name) or (None, None))) for name in names]

    def date(self, name: str) -> tuple[int, int] | None:
        """Size in bytes and date of change (nanoseconds) of a file; None if it is missing."""
        try:
            stat = os.stat(on_disk(self.root, name))
        except OSError:
            return None
        return stat.st_size, stat.st_mtime_ns


class Hub(Place):
    """A data set repository of the hub at one revision; nothing is kept on disk."""

    hint = " What was written is kept; run again to continue."

    def __init__(self, repository: str, revision: str, only: str | None = None) -> None:
        self.repository = repository
        self.revision = revision
        self.name = f"hf:{repository}@{revision}"
        self.only = only

    def find(self, *patterns: str) -> list[str]:
        if self.only is not None:
            return [self.only]
        return [name for name in self._names if any(fnmatch(name, pattern) for pattern in patterns)]

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO]:
        with self._explained(name, *RAISED):
            opened = self._files.open(self._path(name), "rb", block_size=BLOCK_BYTES)
        with self._explained(name), cast(BinaryIO, opened) as stream:
            yield stream

    def identity(self, names: Sequence[str]) -> list[str]:
        return [self.repository, self.revision, *names]

    @cached_property
    def _files(self) -> HfFileSystem:
        from huggingface_hub import HfFileSystem, constants

        require_route(constants.ENDPOINT)
        return HfFileSystem(endpoint=constants.ENDPOINT, skip_instance_cache=True)

    @cached_property
    def _names(self) -> list[str]:
        root = self._path("")
        with self._explained("", *RAISED):
            return sorted(name.removeprefix(root) for name in self._files.find(root))

    def _path(self, name: str) -> str:
        from urllib.parse import quote

        return f"datasets/{self.repository}@{quote(self.revision, safe='')}/{name}"

    @property
    def own_errors(self) -> tuple[type[Exception], ...]:
        from huggingface_hub.errors import HTTPError  # type: ignore[reportPrivateImportUsage]

        return FileNotFoundError, Unavailable, HTTPError, ConnectionError, TimeoutError

    @contextlib.contextmanager
    def _explained(self, name: str, *more: type[Exception]) -> Iterator[None]:
        """Turn what the hub's library raises for a wrong name or a lost connection into one `TgoError`.

        `more` where nothing but the library is at work: what it raises over an answer that is none.
        """
        try:
            yield
        except (*self.own_errors, *more) as error:
            reason = refusal(error, self.repository, "dataset", self.revision)
            raise TgoError(f"{self.where(name)} cannot be read: {reason}.{self.hint}") from error
