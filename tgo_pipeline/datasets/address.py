"""`<name>:<where>`: which data set, and whether it is read from this machine or from the hub."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

from tgo_pipeline.errors import TgoError
from tgo_pipeline.hub.address import MOVING
from tgo_pipeline.reading.places import Folder, Hub, Place

HUB = "hf:"
FORM = "NAME:FOLDER[/SPLIT], NAME:FILE or NAME:hf:ORGANISATION/DATASET@REVISION[/SPLIT]"
_HUB = re.compile(r"(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[^/@]+)(?:/(?P<rest>.+))?)?")


class DatasetAddress(NamedTuple):
    """A place, and the split that was named if one was."""

    place: Place
    split: str | None


def resolve(text: str, where: str, markers: Sequence[str]) -> DatasetAddress:
    """Find `where` of the address `text`; `markers` tell a folder of the data set from the name of a split.

    Raises `TgoError` if it is not there or its revision may move.
    """
    if where.startswith(HUB):
        return _hub(text, where.removeprefix(HUB))
    return _local(text, where, markers)


def whole_place(text: str, where: str) -> Place:
    """All that `where` may mean to a reader whose markers are not known: the folder above, where it names a split."""
    if where and not where.startswith(HUB) and not Path(where).expanduser().exists():
        return resolve(text, str(Path(where).parent), ()).place
    return resolve(text, where, ()).place


def _hub(text: str, where: str) -> DatasetAddress:
    match = _HUB.fullmatch(where)
    if match is None or not match["revision"]:
        raise TgoError(
            f"{text!r} pins no data set of the hub: write {FORM}, with a commit (or a tag) as the revision."
        )
    revision = unquote(match["revision"])
    if revision in MOVING or revision.startswith("refs/"):
        raise TgoError(
            f"{text} may change at any time: pin a commit, {HUB}{match['repository']}@COMMIT, so that its rows stay "
            "the same."
        )
    rest = match["rest"]
    is_file = rest is not None and "." in rest.rsplit("/", 1)[-1]
    place = Hub(match["repository"], revision, rest if is_file else None)
    return DatasetAddress(place, None if is_file else rest)


def _local(text: str, where: str, markers: Sequence[str]) -> DatasetAddress:
    path = Path(where).expanduser()
    if not where:
        raise TgoError(f"{text!r} names no place: write {FORM}.")
    if path.is_file():
        return DatasetAddress(Folder(path.parent, path.name), None)
    above = Folder(path.parent)
    is_split = above.root.is_dir() and not path.suffix and bool(above.find(*markers))
    if path.is_dir() and (not is_split or Folder(path).find(*markers)):
        return DatasetAddress(Folder(path), None)
    if is_split:
        return DatasetAddress(above, path.name)
    raise TgoError(f"{text}: {path} does not exist (looked in {Path.cwd()}). Write {FORM}.")
