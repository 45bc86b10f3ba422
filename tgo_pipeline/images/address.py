"""What an address of images names, as sources of rows."""

from __future__ import annotations

import glob
import logging
import os
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

from tgo_pipeline.datasets import is_dataset, known, open_dataset
from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.object_stores import is_store_url
from tgo_pipeline.formats.remote import is_url
from tgo_pipeline.hub.address import FORM
from tgo_pipeline.images.base import FILE_NAME, METADATA, ImageSource, printable
from tgo_pipeline.images.columns import Columns
from tgo_pipeline.images.copied import CopiedImages
from tgo_pipeline.images.dataset import DatasetImages
from tgo_pipeline.images.files import (
    CLIPS,
    EXTENSIONS,
    folder_images,
    is_json_table,
    is_url_list,
    kind,
    metadata_of,
    named_images,
    table_of_paths,
    url_list,
    walk,
)
from tgo_pipeline.images.hub import HubImages
from tgo_pipeline.images.tables import ParquetFile, saved_dataset
from tgo_pipeline.reading.hub_rows import is_hub_rows
from tgo_pipeline.storage.stores.inputs import local_path

log = logging.getLogger("tgo")
TABLES = (".csv", ".jsonl", ".tsv")
PARQUET = ".parquet"


def open(addresses: Sequence[str], columns: Columns, skip: Collection[str] = ()) -> list[ImageSource]:
    """The sources that addresses name, in their order; files of the absolute paths in `skip` are passed over.

    Raises `TgoError` for what does not exist, holds no image, or is a table without the columns.
    """
    if any(map(is_store_url, addresses)):
        return [source for text in addresses for source in _open_any(text, columns, skip)]
    expanded = [path for text in addresses for path in _expand(text)]
    paths = [path for path in expanded if _is_remote(path) or os.path.abspath(path) not in skip]
    beside = {os.path.dirname(path) for path in paths if _is_image(path)}
    sources: list[ImageSource] = []
    images: list[str] = []
    for path in paths:
        if _is_image(path):
            images.append(path)
        elif not _describes(path, beside):
            sources += _named(images, columns)
            images = []
            sources += _open(path, columns, skip)
    return sources + _named(images, columns)


def _open_any(text: str, columns: Columns, skip: Collection[str]) -> list[ImageSource]:
    """The sources of one address, which may lie in an object store."""
    if not is_store_url(text):
        return open([text], columns, skip)
    copy = str(local_path(text))
    return [CopiedImages(source, copy, text.rstrip("/")) for source in open([copy], columns, skip)]


def _forms() -> str:
    """What an address may be, for messages."""
    return (
        'an image or clip, a folder, a pattern ("images/*.png"), a csv, tsv, jsonl, json or Parquet table, a .txt of '
        f"http(s) addresses, one of these in an object store (s3://bucket/...), {FORM}, or a public data set {known()}"
    )


def _is_remote(text: str) -> bool:
    return is_url(text) or is_hub_rows(text) or is_dataset(text)


def _expand(text: str) -> list[str]:
    """The address itself, or what a pattern matches: images and tables, or folders if there are none of those.

    Raises `TgoError` if there is nothing.
    """
    if _is_remote(text) or os.path.lexists(text):
        return [text]
    text = os.path.expanduser(text)
    if os.path.lexists(text):
        return [text]
    if not glob.has_magic(text):
        raise TgoError(f"{printable(text)} does not exist (looked in {Path.cwd()}). Name {_forms()}.")
    found = sorted(glob.glob(text, recursive=True))
    files = [path for path in found if not os.path.isdir(path)]
    known = [path for path in files if kind(path) in (*EXTENSIONS, *TABLES, PARQUET)]
    files = known or [path for path in files if kind(path) in CLIPS]
    taken = files or [path for path in found if os.path.isdir(path)]
    captions = {f"{os.path.splitext(path)[0]}.txt" for path in taken}
    left_out = sum(path not in captions for path in found) - len(taken)
    if not taken:
        others = f", only {left_out:,} other files" if left_out else ""
        raise TgoError(
            f"{printable(text)} matches no image, clip, table or folder{others} (looked in {Path.cwd()})."
        )
    if left_out:
        log.warning(
            "%s: left out %s that are not images by their extension", printable(text), f"{left_out:,}"
        )
    return taken


def _is_image(path: str) -> bool:
    if is_url(path):
        return True
    is_listing = kind(path) in (*TABLES, PARQUET) or is_url_list(path) or is_json_table(path)
    return not (_is_remote(path) or os.path.isdir(path) or is_listing)


def _describes(path: str, folders_of_images: Collection[str]) -> bool:
    """Whether a file, which a pattern names among images, is the metadata beside them."""
    folder, name = os.path.split(path)
    return name in METADATA and folder in folders_of_images


def _named(images: Sequence[str], columns: Columns) -> list[ImageSource]:
    return [named_images(images, columns)] if images else []


def _open(path: str, columns: Columns, skip: Collection[str]) -> Iterator[ImageSource]:
    if is_hub_rows(path):
        yield HubImages(path, columns)
    elif is_dataset(path):
        yield DatasetImages(open_dataset(path))
    elif os.path.isdir(path):
        yield from _open_folder(path, columns, skip)
    elif kind(path) == PARQUET:
        yield ParquetFile(path, columns)
    elif is_url_list(path):
        yield url_list(path)
    else:
        yield table_of_paths(path, columns)


def _open_folder(folder: str, columns: Columns, skip: Collection[str]) -> Iterator[ImageSource]:
    listed = metadata_of(folder) if columns.importing else None
    if listed is not None:
        yield table_of_paths(listed, columns)
        return
    found = saved_dataset(folder, columns)
    files = [] if found else list(walk(folder, skip))
    tables = [file for file in files if kind(file) == PARQUET]
    if found is None and not (tables and columns.importing):
        found = folder_images(folder, files, columns)
    if found is not None:
        yield found
        return
    if not tables:
        raise TgoError(
            f"{printable(folder)} holds no image ({' '.join(sorted(EXTENSIONS))}), no clip "
            f"({' '.join(sorted(CLIPS))}), no metadata.csv with {FILE_NAME} "
            "and prompt, no Parquet file with an image column (as `dataset.to_parquet` writes) and no data set of "
            "`save_to_disk`."
        )
    for file in sorted(tables, key=Path if columns.importing else None):
        yield ParquetFile(file, columns)
