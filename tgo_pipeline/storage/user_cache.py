"""The user's cache: where it is, and the sha256 of large files, which is computed once.

The folder is $TGO_CACHE, else $XDG_CACHE_HOME/tgo-pipeline, else ~/.cache/tgo-pipeline. All of it may be deleted at
any time. If it cannot be written, one warning says so and nothing is kept.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import tempfile
from functools import lru_cache
from pathlib import Path

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.files import NotAFile, require_regular
from tgo_pipeline.storage.writing import atomic

log = logging.getLogger("tgo")
REMEMBERED_FROM_BYTES = 4 << 20
"""Smaller files are hashed every time: that is as fast as looking the hash up."""


def location() -> Path:
    """The cache's folder, which need not exist."""
    named = os.environ.get("TGO_CACHE")
    if named:
        return Path(named).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "tgo-pipeline"


def folder(name: str) -> Path:
    """A folder of the cache that can be written; a temporary one of this process if there is none."""
    writable = _writable(location())
    path = (writable or _temporary()) / name
    path.mkdir(parents=True, exist_ok=True)
    return path


@lru_cache(maxsize=8)
def _writable(path: Path) -> Path | None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        log.warning(
            "the cache %s cannot be written (%s): hashes and converted weights are not kept. Set TGO_CACHE to a "
            "folder that can be written.",
            path,
            error.strerror,
        )
        return None


@lru_cache(maxsize=1)
def _temporary() -> Path:
    kept = tempfile.TemporaryDirectory(prefix="tgo-cache-")
    _KEPT.append(kept)
    return Path(kept.name)


_KEPT: list[tempfile.TemporaryDirectory] = []


def is_writable() -> bool:
    """Whether something can be kept; the first refusal is logged."""
    return _writable(location()) is not None


def sha256(path: Path) -> str:
    """The sha256 of a file. That of a large one is remembered until its size, time or inode changes.

    Raises `TgoError` for a pipe or a device, which may have no end.
    """
    path = path.resolve()
    try:
        require_regular(path)
    except NotAFile as error:
        raise TgoError(f"{path} cannot be read: {error.strerror}.") from error
    stat = path.stat()
    if stat.st_size < REMEMBERED_FROM_BYTES:
        return _hash(path)
    return _remembered(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=256)
def _remembered(path: Path, size_bytes: int, modified_ns: int, inode: int) -> str:
    if not is_writable():
        return _hash(path)
    seen = {"path": str(path), "size_bytes": size_bytes, "modified_ns": modified_ns, "inode": inode}
    record = folder("sha256") / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, AttributeError):
        stored = json.loads(record.read_text())
        if stored.items() >= seen.items():
            return stored["sha256"]
    digest = _hash(path)
    # On a full disk nothing is kept, and the next process hashes the file again.
    with contextlib.suppress(OSError, TgoError), atomic(record) as temporary:
        temporary.write_text(json.dumps({**seen, "sha256": digest}))
    return digest


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
