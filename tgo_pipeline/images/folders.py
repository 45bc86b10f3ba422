"""Picture files: folders, globs, files named one by one, and the prompts that a `metadata` file beside them gives."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.images.columns import Columns
from tgo_pipeline.images.import_folder import FILE_NAME, METADATA
from tgo_pipeline.images.rows import Row, Source
from tgo_pipeline.reading.tabular import column_names, read_columns

log = logging.getLogger("tgo")
_KINDS = """.png .apng .jpg .jpeg .jpe .jfif .webp .avif .gif .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm .tga .ico
.jp2 .j2k .jpx .qoi .psd"""
EXTENSIONS = frozenset(_KINDS.split())
"""What counts as a picture in a folder, in any case; files named one by one are always taken."""
KINDS = 5
"""Extensions that the log names of what is left out."""


class ImageFiles(Source):
    """Picture files by path (None where a table names none), with their own prompts where there are some."""

    files = True

    def __init__(
        self, paths: Sequence[str | None], names: Sequence[str], prompts: Sequence[str | None] | None = None
    ) -> None:
        self.count = len(paths)
        self._paths, self._names, self._prompts = paths, names, prompts

    def rows(self, start: int, stop: int) -> Iterator[Row]:
        for place in range(start, min(stop, len(self._paths))):
            path, name = self._paths[place], self._names[place]
            prompt = self._prompts[place] if self._prompts else None
            yield Row(
                printable(os.path.normpath(path or name)),
                Path(path) if path else None,
                prompt,
                (printable(name),),
            )

    labels = rows

    def key(self, start: int, stop: int) -> Any:
        return [date(path) for path in self._paths[start:stop]]


def printable(path: str) -> str:
    """A path as text: bytes that are no UTF-8 are written as `\\xe9`."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def date(path: str | None) -> tuple[int, int] | None:
    """Size in bytes and time of change of a file; None if it cannot be seen."""
    try:
        stat = os.stat(path) if path else None
    except OSError:
        return None
    return (stat.st_size, stat.st_mtime_ns) if stat else None


def folder_images(folder: str, columns: Columns, skip: Collection[str]) -> ImageFiles | None:
    """The pictures of a folder and of those in it, sorted by path, with prompts from its metadata; None without any.

    Hidden files, other extensions and the absolute paths in `skip` are left out; the log counts what is left out.
    """
    paths: list[str] = []
    metadata: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    for file in walk(folder, skip):
        parent, name = os.path.split(file)
        kind = os.path.splitext(name)[1].lower()
        if kind in EXTENSIONS:
            paths.append(file)
        elif name in METADATA:
            metadata.setdefault(parent, file)
        else:
            left_out[kind or "without extension"] += 1
    if not paths:
        return None
    if left_out:
        kinds = [f"{count:,} {printable(kind)}" for kind, count in left_out.most_common(KINDS)]
        more = ["..."] if len(left_out) > KINDS else []
        log.warning(
            "%s: left out %s files that are no pictures by their extension: %s",
            *(printable(folder), f"{left_out.total():,}", ", ".join(kinds + more)),
        )
    paths.sort()
    prompts = _prompts(paths, metadata.values(), columns)
    return ImageFiles(paths, [os.path.relpath(path, folder) for path in paths], prompts)


def named_images(paths: Sequence[str], columns: Columns) -> ImageFiles:
    """Pictures named one by one, with prompts from the metadata in their folders."""
    folders = dict.fromkeys(os.path.dirname(path) for path in paths)
    candidates = [[os.path.join(folder, name) for name in METADATA] for folder in folders]
    metadata = [next(filter(os.path.isfile, group), None) for group in candidates]
    prompts = _prompts(paths, filter(None, metadata), columns, whole=False)
    return ImageFiles(paths, [os.path.basename(path) for path in paths], prompts)


def walk(folder: str, skip: Collection[str] = ()) -> Iterator[str]:
    """Every file below `folder` that is not hidden, through links too; a link that leads nowhere is a file.

    `skip` holds absolute paths to pass over. Raises `TgoError` if a folder cannot be read.
    """
    seen: set[tuple[int, int]] = set()
    waiting = [folder]
    while waiting:
        here = waiting.pop()
        try:
            stat = os.stat(here)
            entries = sorted(os.scandir(here), key=lambda entry: entry.name)
        except OSError as error:
            raise TgoError(f"the folder {printable(here)} cannot be read: {error.strerror}.") from error
        if (stat.st_dev, stat.st_ino) in seen:  # a link to a folder that was walked already
            continue
        seen.add((stat.st_dev, stat.st_ino))
        for entry in entries:
            if entry.name.startswith(".") or os.path.abspath(entry.path) in skip:
                continue
            if entry.is_dir():
                waiting.append(entry.path)
            elif entry.is_file() or entry.is_symlink():
                yield entry.path


def _prompts(
    paths: Sequence[str], metadata: Iterable[str], columns: Columns, *, whole: bool = True
) -> list[str | None] | None:
    """What metadata files say of pictures; None if they say nothing. `whole`: the pictures are all there are."""
    found: dict[str, str | None] = {}
    for file in metadata if columns.prompts else ():
        path = Path(file)
        prompt = columns.prompt_in(file, column_names(path))
        if prompt is not None:
            folder = os.path.dirname(file)
            for name, text in read_columns(path, [FILE_NAME, prompt]):
                found[os.path.normpath(os.path.join(folder, name or ""))] = text
    if not found:
        return None
    unused = found.keys() - {os.path.normpath(path) for path in paths}
    if unused and whole:
        log.warning(
            "%s of %s rows of metadata name no picture in the folder, such as %s",
            *(f"{len(unused):,}", f"{len(found):,}", printable(min(unused))),
        )
    return [found.get(os.path.normpath(path)) for path in paths]
