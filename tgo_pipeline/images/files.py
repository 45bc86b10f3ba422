"""Image files: folders, globs, files named one by one, and the prompts that are beside them.

A prompt comes from a `metadata` file in the image's folder, else from a `.txt` file beside the image (`cat.txt` for
`cat.png`).
"""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path, PurePath
from typing import Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats import spelling
from tgo_pipeline.formats.files import open_regular
from tgo_pipeline.formats.remote import is_url
from tgo_pipeline.formats.spelling import on_disk, slashes
from tgo_pipeline.images.base import (
    FILE_NAME,
    METADATA,
    MODEL,
    ImageSource,
    Row,
    date,
    file_states,
    located,
    printable,
)
from tgo_pipeline.images.columns import Columns
from tgo_pipeline.reading import text
from tgo_pipeline.reading.places import Folder
from tgo_pipeline.reading.tables import open_table

log = logging.getLogger("tgo")
_KINDS = """.png .apng .jpg .jpeg .jpe .jfif .webp .avif .gif .bmp .dib .tif .tiff .ppm .pgm .pbm .pnm .tga .ico
.jp2 .j2k .jpx .qoi .psd .heic .heif"""
EXTENSIONS = frozenset(_KINDS.split())
"""What counts as an image in a folder, in any case; files named one by one are always taken."""
CLIPS = frozenset((".mp4", ".m4v", ".mkv", ".webm", ".mov", ".avi"))
"""What counts as a clip."""
CAPTION, JSON = ".txt", ".json"
CAPTION_CHARACTERS = 1_000_000
"""A longer text beside an image is not its caption."""
KINDS = 5
"""Extensions that the log names of what is left out: they fit into its line."""
PROBED_BYTES = 4096
"""Where the first line of a list of addresses begins at the latest."""
PROBED = 100
"""How many files of a table are looked for before it is said that none is there."""


class ListedImages(ImageSource):
    """Image files by path (None where a table names none), with their own prompts where there are some.

    `names` are what their folder or table calls them. That is what they are called altogether if it is `unique`: the
    names of files in several folders are not. `captioned` are the places of those that a table of prompts lists.
    """

    files = True

    def __init__(
        self,
        paths: Sequence[str | None],
        names: Sequence[str],
        prompts: Sequence[str | None] | None = None,
        models: Sequence[str | None] | None = None,
        *,
        unique: bool = True,
        captioned: Collection[int] = (),
    ) -> None:
        self._paths, self._names, self._prompts, self._models = paths, names, prompts, models
        self._unique, self._captioned = unique, captioned
        self.clips = named_clips(path for path in paths if path)

    @property
    def count(self) -> int:
        return len(self._paths)

    def rows(self, start: int, stop: int) -> Iterator[Row]:
        for place in range(start, min(stop, len(self._paths))):
            path, name = self._paths[place], printable(self._names[place])
            image = printable(path if path and is_url(path) else os.path.normpath(path or name))
            yield Row(
                place,
                image,
                located(path) if path else None,
                self._prompts[place] if self._prompts else None,
                (name,),
                uid=name if self._unique else image,
                model=self._models[place] if self._models else None,
                captioned=place in self._captioned,
            )

    labels = rows

    def states(self, rows: Sequence[Row]) -> list[Any]:
        return file_states(rows, lambda row: (None, self._paths[row.place]))

    def key(self, start: int, stop: int) -> Any:
        return [date(path) for path in self._paths[start:stop]]


def folder_images(folder: str, files: Iterable[str], columns: Columns) -> ListedImages | None:
    """The images among the `files` below a folder, sorted by path, with the prompts beside them; None without any.

    Without an image they are its clips. The log counts what is left out.
    """
    paths: list[str] = []
    clips: list[str] = []
    metadata: dict[str, str] = {}
    others: list[str] = []
    for file in files:
        parent, name = os.path.split(file)
        if kind(name) in EXTENSIONS:
            paths.append(file)
        elif kind(name) in CLIPS:
            clips.append(file)
        elif name in METADATA and _is_table(file):
            if parent in metadata:
                raise _two_tables(metadata[parent], file)
            metadata[parent] = file
        else:
            others.append(file)
    paths, others = (paths, others + clips) if paths else (clips, others)
    if not paths:
        return None
    _report_left_out(folder, paths, others)
    paths.sort()
    prompts, captioned = _prompts(paths, metadata.values(), columns)
    names = [os.path.relpath(path, folder) for path in paths]
    return ListedImages(paths, names, prompts, captioned=captioned)


def _report_left_out(folder: str, paths: Sequence[str], others: Sequence[str]) -> None:
    captions = {os.path.splitext(path)[0] + CAPTION for path in paths}
    left_out = Counter(kind(file) or "without extension" for file in others if file not in captions)
    if left_out:
        kinds = [f"{count:,} {printable(name)}" for name, count in left_out.most_common(KINDS)]
        more = ["..."] if len(left_out) > KINDS else []
        log.warning(
            "%s: left out %s files that are not %s by their extension: %s",
            *(
                printable(folder),
                f"{left_out.total():,}",
                "clips" if named_clips(paths) else "images",
                ", ".join(kinds + more),
            ),
        )


def named_images(paths: Sequence[str], columns: Columns) -> ListedImages:
    """Images named one by one, with the prompts beside them."""
    folders = dict.fromkeys(os.path.dirname(path) for path in paths)
    metadata = filter(None, map(metadata_of, folders))
    prompts, captioned = _prompts(paths, metadata, columns, whole=False)
    names = [os.path.basename(path) for path in paths]
    return ListedImages(paths, names, prompts, unique=False, captioned=captioned)


def metadata_of(folder: str) -> str | None:
    """The metadata file of a folder, if it has one. Raises `TgoError` if it has two."""
    beside = [os.path.join(folder, name) for name in METADATA]
    found = [file for file in beside if os.path.isfile(file) and _is_table(file)]
    if len(found) > 1:
        raise _two_tables(*found[:2])
    return found[0] if found else None


def _is_table(file: str) -> bool:
    return kind(file) != JSON or is_json_table(file)


def _two_tables(one: str, other: str) -> TgoError:
    return TgoError(
        f"{printable(one)} and {printable(other)} both say what the images beside them are: keep one of them."
    )


def table_of_paths(path: str, columns: Columns) -> ListedImages:
    """The images whose paths, relative to the table, it lists, with their prompts, or those of `.txt` files.

    Raises `TgoError` if none of the first images is there.
    """
    table = open_table(Path(path))
    image = columns.image_in(path, table.names, paths=True)
    prompt = columns.prompt_in(path, table.names)
    records = list(table.rows([image] if prompt is None else [image, prompt], [MODEL]))
    folder = os.path.dirname(path)
    names = [record[0] for record in records]
    if columns.importing:
        for name in names:
            require_inside(path, name)
    paths = [name if not name or is_url(name) else on_disk(folder, name) for name in names]
    require_some(path, image, names[:PROBED])
    captions = _captions(paths) if prompt is None and columns.prompts else None
    return ListedImages(
        paths,
        [name or f"{path}:{row}" for row, name in enumerate(names)],
        captions if prompt is None else [table.stated(record[1]) for record in records],
        [record[-1] for record in records],
        captioned=() if prompt is None else range(len(records)),
    )


def is_url_list(path: str) -> bool:
    """Whether a text file begins with an address of the web."""
    if kind(path) != CAPTION or not os.path.isfile(path):
        return False
    with open_regular(path) as stream:
        return is_url(stream.read(PROBED_BYTES).decode("utf-8-sig", "replace").lstrip())


def is_json_table(path: str) -> bool:
    """Whether a json file holds an array; what programs write beside an image is an object."""
    if kind(path) != JSON or not os.path.isfile(path):
        return False
    with open_regular(path) as stream:
        return stream.read(PROBED_BYTES).decode("utf-8-sig", "replace").lstrip().startswith("[")


def url_list(path: str) -> ListedImages:
    """The images of a text file with an address of the web in each line. Raises `TgoError` for any other line."""
    urls: list[str] = []
    with text.opened(Folder(Path(path).parent), Path(path).name) as stream:
        for number, line in enumerate(text.lines(stream, printable(path)), start=1):
            url = line.strip()
            if url and not is_url(url):
                raise TgoError(
                    f"{printable(path)}, line {number}: {url[:80]!r} is no http(s) address: a list of addresses has "
                    "one in each line. For files write a csv with file_name."
                )
            urls += [url] if url else []
    return ListedImages(urls, urls)


def require_inside(table: str, name: str | None) -> None:
    """Raise `TgoError` unless a name is that of a file inside the folder of the table that names it, or on the web."""
    if name and is_url(name):
        return
    if not name or os.path.isabs(name) or ".." in PurePath(slashes(name)).parts:
        folder = os.path.dirname(os.path.abspath(table))
        raise TgoError(f"{printable(table)}: {name!r} is not a file inside {printable(folder)}.")


def require_some(table: str, column: str, names: Sequence[str | None]) -> None:
    """Raise `TgoError` if a table names files, and none of them is there."""
    folder = os.path.dirname(table)
    looked = [on_disk(folder, name) for name in names if name and not is_url(name)]
    if looked and not any(map(os.path.lexists, looked)):
        raise TgoError(
            f"{printable(table)}: none of its files is there (looked for {printable(looked[0])} and others): {column} "
            f"must be relative to {printable(os.path.abspath(folder))}."
        )


def named_clips(paths: Iterable[str]) -> bool:
    """Whether files, or addresses of the web, are clips by their extensions. Raises `TgoError` if some are."""
    clip = other = None
    for path in paths:
        if kind(path.partition("?")[0] if is_url(path) else path) in CLIPS:
            clip = clip or path
        else:
            other = other or path
        if clip and other:
            raise TgoError(
                f"{printable(clip)} is a clip by its extension and {printable(other)} is not: name one kind at a time."
            )
    return clip is not None


def kind(path: str) -> str:
    """The extension of a file in lower case."""
    return os.path.splitext(path)[1].lower()


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
) -> tuple[list[str | None] | None, Collection[int]]:
    """What is said of images beside them, None if nothing is, and the places of those that metadata lists.

    `whole`: the images are all there are.
    """
    if not columns.prompts:
        return None, ()
    found: dict[str, str | None] = {}
    for file in metadata:
        table = open_table(Path(file))
        prompt = columns.prompt_in(file, table.names)
        if prompt is not None:
            folder = os.path.dirname(file)
            for row, (name, said) in enumerate(table.rows([FILE_NAME, prompt]), start=1):
                said = table.stated(said)
                if found.setdefault(spelling.key(os.path.join(folder, name or "")), said) != said:
                    raise TgoError(
                        f"{printable(file)}, row {row}: {name!r} has another prompt in an earlier row: keep one of "
                        "them."
                    )
    keys = [spelling.key(path) for path in paths]
    unused = found.keys() - set(keys)
    if unused and whole:
        log.warning(
            "%s of %s rows of metadata name no image in the folder, such as %s",
            *(f"{len(unused):,}", f"{len(found):,}", printable(min(unused))),
        )
    return _captions(paths, found), {place for place, name in enumerate(keys) if name in found}


def _captions(
    paths: Sequence[str | None], found: dict[str, str | None] | None = None
) -> list[str | None] | None:
    """The prompt of each image that metadata has `found`, else that of the `.txt` file beside it; None without any."""
    known = found or {}
    prompts = [
        known[name] if path and (name := spelling.key(path)) in known else _caption(path) for path in paths
    ]
    return prompts if found or any(prompt is not None for prompt in prompts) else None


def _caption(path: str | None) -> str | None:
    file = Path(os.path.splitext(path)[0] + CAPTION) if path else None
    if file is None or not file.is_file():
        return None
    with text.opened(Folder(file.parent), file.name) as stream:
        said = stream.read(CAPTION_CHARACTERS + 1)
    if len(said) > CAPTION_CHARACTERS:
        raise TgoError(
            f"{printable(str(file))} is longer than {CAPTION_CHARACTERS:,} characters, so it is no caption of "
            f"{printable(os.path.basename(path or ''))}: move it away, or shorten it."
        )
    return said.strip()
