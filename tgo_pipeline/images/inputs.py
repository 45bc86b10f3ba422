"""What is named on the command line, as sources of rows."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub.address import PREFIX
from tgo_pipeline.images.columns import Columns
from tgo_pipeline.images.folders import EXTENSIONS, folder_images, named_images, printable, walk
from tgo_pipeline.images.hub import HubDataset
from tgo_pipeline.images.import_folder import METADATA
from tgo_pipeline.images.rows import Source
from tgo_pipeline.images.tables import ParquetFile, saved_dataset, table_of_paths

log = logging.getLogger("tgo")
TABLES = (".csv", ".jsonl")
PARQUET = ".parquet"


def open_inputs(texts: Sequence[str], columns: Columns, skip: Collection[str]) -> list[Source]:
    """The sources that the command line names, in its order; paths in `skip` (the output) are no input.

    Raises `TgoError` for what does not exist, holds no picture, or is a table without the columns.
    """
    expanded = [path for text in texts for path in _expand(text)]
    paths = [path for path in expanded if os.path.abspath(path) not in skip]
    beside = {os.path.dirname(path) for path in paths if _is_picture(path)}
    sources: list[Source] = []
    pictures: list[str] = []
    for path in paths:
        if _is_picture(path):
            pictures.append(path)
        elif not _describes(path, beside):
            sources += _named(pictures, columns)
            pictures = []
            sources += _open(path, columns, skip)
    return sources + _named(pictures, columns)


def _expand(text: str) -> list[str]:
    """The path itself, or what a pattern matches: images and tables, or folders if there are none of those.

    Raises `TgoError` if there is nothing.
    """
    if text.startswith(PREFIX) or os.path.lexists(text):
        return [text]
    if not glob.has_magic(text):
        raise TgoError(f"{printable(text)} does not exist (looked in {Path.cwd()}).")
    found = sorted(glob.glob(text, recursive=True))
    files = [
        path for path in found if _kind(path) in (*EXTENSIONS, *TABLES, PARQUET) and not os.path.isdir(path)
    ]
    taken = files or [path for path in found if os.path.isdir(path)]
    left_out = len(found) - len(taken)
    if not taken:
        others = f", only {left_out:,} other files" if left_out else ""
        raise TgoError(
            f"{printable(text)} matches no image, table or folder{others} (looked in {Path.cwd()})."
        )
    if left_out:
        log.warning("%s: left out %s that are no images by their extension", printable(text), f"{left_out:,}")
    return taken


def _kind(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def _is_picture(path: str) -> bool:
    return not (path.startswith(PREFIX) or os.path.isdir(path) or _kind(path) in (*TABLES, PARQUET))


def _describes(path: str, folders_of_pictures: Collection[str]) -> bool:
    """Whether a file, which a pattern of the shell names among pictures, is the metadata beside them."""
    folder, name = os.path.split(path)
    return name in METADATA and folder in folders_of_pictures


def _named(pictures: Sequence[str], columns: Columns) -> list[Source]:
    return [named_images(pictures, columns)] if pictures else []


def _open(path: str, columns: Columns, skip: Collection[str]) -> Iterator[Source]:
    if path.startswith(PREFIX):
        yield HubDataset(path, columns)
    elif os.path.isdir(path):
        yield from _open_folder(path, columns, skip)
    elif _kind(path) == PARQUET:
        yield ParquetFile(path, columns)
    else:
        yield table_of_paths(path, columns)


def _open_folder(folder: str, columns: Columns, skip: Collection[str]) -> Iterator[Source]:
    found = saved_dataset(folder, columns) or folder_images(folder, columns, skip)
    if found is not None:
        yield found
        return
    tables = sorted(file for file in walk(folder, skip) if _kind(file) == PARQUET)
    if not tables:
        raise TgoError(
            f"{printable(folder)} holds no picture ({' '.join(sorted(EXTENSIONS))}), no Parquet file and no data set "
            "of `save_to_disk`."
        )
    for file in tables:
        yield ParquetFile(file, columns)
