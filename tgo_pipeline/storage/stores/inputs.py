"""What parameters name in an object store (a table, a folder of images, a model, a reward's weights), copied here.

A copy is looked at once a process: files that the store has with another size or date are fetched again, and keep the
store's date. All copies together keep to the bound of the cache (`cache.VARIABLE`); those used longest ago go first,
and none that a running process uses.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import logging
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TextIO

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats import object_stores
from tgo_pipeline.formats.object_stores import StoreFile, is_store_url, require_address
from tgo_pipeline.storage.disk import explain_disk
from tgo_pipeline.storage.stores.cache import VARIABLE, most_bytes
from tgo_pipeline.storage.user_cache import folder

log = logging.getLogger("tgo")
AT_ONCE = 16
"""Files that are fetched at a time."""
_in_use: list[TextIO] = []


def local_path(text: str | os.PathLike[str]) -> Path:
    """A path of this machine as it is, with `~`; of an address in an object store a copy of what is there.

    Raises `TgoError` if nothing is there, it cannot be fetched, or is more than the cache may hold.
    """
    name = os.fspath(text)
    return _copied(require_address(name)) if is_store_url(name) else Path(name).expanduser()


@functools.lru_cache(maxsize=256)
def _copied(url: str) -> Path:
    one = object_stores.find(url)
    files = [one] if one else object_stores.listed(url)
    if not files:
        raise TgoError(f"{url} does not exist: there is no such file, and nothing below it.")
    size = sum(file.size_bytes for file in files)
    if size > most_bytes():
        raise TgoError(
            f"{url} has {size / 1e9:,.1f} GB, more than the {most_bytes() / 1e9:,.1f} GB that copies of what lies in "
            f"stores may take: set {VARIABLE} to more, or name a part of it."
        )
    place = folder("store-inputs") / hashlib.sha256(url.encode()).hexdigest()[:24]
    target = place / url.rpartition("/")[2]
    with explain_disk(target), _held(place):
        _make_room(size, place)
        if one is None:
            _remove_others(target, {_below(url, file) for file in files})
        names = {file: target if one else target / _below(url, file) for file in files}
        stale = [file for file in files if not _is_same(names[file], file)]
        if stale:
            log.info(
                "%s: fetching %d files, %.1f MB",
                url,
                len(stale),
                sum(file.size_bytes for file in stale) / 1e6,
            )
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for _ in pool.map(lambda file: _fetch(file, names[file]), stale):
                pass
    return target


def _below(url: str, file: StoreFile) -> str:
    """The name of a file below an address. Raises `TgoError` for one that would lie elsewhere."""
    name = file.url.removeprefix(f"{url}/")
    if ".." in name.split("/"):
        raise TgoError(f"{file.url} has .. in its name, which no file here can have: rename it.")
    return name


def _is_same(path: Path, file: StoreFile) -> bool:
    with contextlib.suppress(OSError):
        stat = path.stat()
        return (stat.st_size, stat.st_mtime_ns) == (file.size_bytes, file.modified_ns)
    return False


def _fetch(file: StoreFile, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        object_stores.fetch(file.url, temporary)
        os.utime(temporary, ns=(time.time_ns(), file.modified_ns))
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _remove_others(target: Path, names: set[str]) -> None:
    """Remove what the store has no more, and what killed processes left."""
    for path in sorted(target.rglob("*"), reverse=True):
        if path.is_file() and path.relative_to(target).as_posix() not in names:
            path.unlink()


@contextlib.contextmanager
def _held(place: Path) -> Iterator[None]:
    """Alone with a copy while it is brought up to date; afterwards in use by this process until it ends."""
    place.mkdir(parents=True, exist_ok=True)
    with (place.with_suffix(".sync")).open("w") as alone:
        with contextlib.suppress(OSError):  # a file system without locks
            fcntl.flock(alone, fcntl.LOCK_EX)
        used = place.with_suffix(".use").open("w")
        with contextlib.suppress(OSError):
            fcntl.flock(used, fcntl.LOCK_SH)
        _in_use.append(used)
        yield


def _make_room(size_bytes: int, place: Path) -> None:
    """Remove the copies used longest ago until this many bytes fit beside the others."""
    others = [other for other in place.parent.iterdir() if other.is_dir() and other != place]
    sizes = {
        other: sum(path.stat().st_size for path in other.rglob("*") if path.is_file()) for other in others
    }
    left = sum(sizes.values()) + size_bytes - most_bytes()
    for other in sorted(others, key=lambda other: other.with_suffix(".use").stat().st_mtime_ns):
        if left <= 0:
            return
        with other.with_suffix(".use").open("a") as used, contextlib.suppress(OSError):
            fcntl.flock(used, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(other)
            left -= sizes[other]
