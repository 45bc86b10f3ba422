"""Public preference data and prompt sets, read as streams from a local copy or from the hub at a pinned revision.

`open_dataset("pickapic:hf:yuvalkirstain/pickapic_v2@COMMIT/train").comparisons()` reads nothing but the columns that
it needs, in ranges; nothing is kept on disk. docs/DATASETS.md lists the names, the files that each reads and their
columns. A reader of one's own has the name of its entry point, or is `module:object` (docs/PLUGINS.md).
"""

from __future__ import annotations

import re
from typing import Any

from tgo_pipeline.datasets.address import FORM, HUB, resolve, whole_place
from tgo_pipeline.datasets.base import Dataset
from tgo_pipeline.errors import TgoError
from tgo_pipeline.plugins.find import is_reference
from tgo_pipeline.plugins.kinds import DATASET
from tgo_pipeline.reading.places import Folder
from tgo_pipeline.storage.fingerprints import fingerprint

__all__ = [
    "READERS",
    "Dataset",
    "identity",
    "is_dataset",
    "is_on_hub",
    "known",
    "open_dataset",
    "own_identity",
]
READERS = DATASET.builtin
"""The reader of every name of this package that an address may begin with, as `module:object`."""
_NAME = re.compile(r"[A-Za-z_][\w.-]*")


def known() -> str:
    """How an address looks, for messages."""
    return f"NAME:WHERE, NAME being one of {', '.join(DATASET.names())}, or a reader of your own as module:object"


def _split(address: str) -> tuple[str, str] | None:
    """Reader and place of an address; None for what is not an address of a data set."""
    name, colon, where = address.partition(":")
    if not _NAME.fullmatch(name):  # most are paths, and packages are slow to ask
        return None
    if colon and (name in READERS or name in DATASET.installed()):
        return name, where
    attribute, colon, where = where.partition(":")
    own = f"{name}:{attribute}"
    return (own, where) if colon and is_reference(own) else None


def is_dataset(text: str) -> bool:
    """Whether `text` begins as the address of a data set does, with the name of a reader and a colon."""
    return _split(text) is not None


def is_on_hub(address: str) -> bool:
    """Whether an address names the hub, where its revision says what it holds."""
    found = _split(address)
    return found is not None and found[1].startswith(HUB)


def open_dataset(address: str) -> Dataset:
    """The data set at an address `<name>:<where>`; no row is read yet.

    Raises `TgoError` if the name is not known, a local place does not exist, or a hub revision is missing or may move.
    """
    found = _split(address)
    if found is None:
        raise TgoError(f"{address!r} names no data set: write {FORM}, {known().partition(', ')[2]}.")
    name, where = found
    reader: Any = DATASET.load(name, Dataset)
    opened: Dataset = reader(address, *resolve(address, where, reader.markers))
    opened.own_identity = own_identity(address)
    return opened


def identity(address: str) -> str:
    """What the rows of a data set depend on, as a short hash; a reader of one's own is not imported for it."""
    return own_identity(address) or open_dataset(address).identity()


def own_identity(address: str) -> str | None:
    """Of a reader of one's own: its code or version, and every file of its place; None for those of this package."""
    name, where = _split(address) or ("", "")
    part = DATASET.identity(name)
    if part is None:
        return None
    place = whole_place(address, where)
    files = place.identity(place.find("**/*")) if isinstance(place, Folder) else []
    return fingerprint(address=address, files=files, **part)
