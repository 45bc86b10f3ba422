"""The user's cache and where it is.

The folder is $TGO_CACHE, else $XDG_CACHE_HOME/tgo-pipeline, else ~/.cache/tgo-pipeline. All of it may be deleted at
any time. If it cannot be written, one warning says so and nothing is kept.
"""

from __future__ import annotations

import logging
import os
import tempfile
from functools import lru_cache
from pathlib import Path

log = logging.getLogger("tgo")


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
