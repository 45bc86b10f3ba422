"""What is kept between runs: sha256 of large files, and pickled weights converted once to safetensors.

The folder is $TGO_CACHE, else $XDG_CACHE_HOME/tgo-pipeline, else ~/.cache/tgo-pipeline. All of it may be deleted at
any time. Where it cannot be written, that is said once and nothing is kept.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.shards import atomic

log = logging.getLogger("tgo")
PICKLES = (".pt", ".pth", ".bin")
REMEMBERED_FROM_BYTES = 4 << 20
"""Smaller files are hashed anew each time: that is as fast as looking it up."""


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


def sha256(path: Path) -> str:
    """The sha256 of a file. That of a large one is remembered until its size, time or inode changes."""
    path = path.resolve()
    stat = path.stat()
    return _sha256(path, stat.st_size, stat.st_mtime_ns, stat.st_ino)


@lru_cache(maxsize=256)
def _sha256(path: Path, size_bytes: int, modified_ns: int, inode: int) -> str:
    if size_bytes < REMEMBERED_FROM_BYTES or _writable(location()) is None:
        return _hash(path)
    seen = {"path": str(path), "size_bytes": size_bytes, "modified_ns": modified_ns, "inode": inode}
    record = folder("sha256") / f"{hashlib.sha256(str(path).encode()).hexdigest()[:32]}.json"
    with contextlib.suppress(OSError, ValueError, AttributeError):
        stored = json.loads(record.read_text())
        if stored.items() >= seen.items():
            return stored["sha256"]
    digest = _hash(path)
    with atomic(record) as temporary:
        temporary.write_text(json.dumps({**seen, "sha256": digest}))
    return digest


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def as_safetensors(path: Path) -> Path:
    """The safetensors conversion of a pickled weight file, made once; other files, and all without a cache, as is.

    Tensors keep their type. Raises `TgoError` if the file is damaged or holds anything but a state dict.
    """
    if path.suffix not in PICKLES or _writable(location()) is None:
        return path
    digest = sha256(path)
    converted = folder("weights") / f"{digest}.safetensors"
    if converted.is_file():
        return converted
    with _alone(converted):
        if not converted.is_file():
            _convert(path, converted, digest)
    return converted


def _convert(path: Path, converted: Path, digest: str) -> None:
    from tgo_pipeline.hub.checkpoint import read_weights, write_weights

    log.info("converting %s to safetensors, once: %s", path, converted)
    state = read_weights(path)
    with atomic(converted) as temporary:
        write_weights(temporary, state, {"source": path.name, "sha256": digest})
        temporary.chmod(0o644)  # safetensors keeps it to its owner; a cache may be shared


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """Wait for other processes that make the same file. Where files cannot be locked the last of them wins."""
    with path.with_suffix(".lock").open("w") as stream:
        with contextlib.suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def named_as(path: Path, converted: Path) -> Iterator[None]:
    """Let errors about a conversion speak of the file that it was made from."""
    try:
        yield
    except TgoError as error:
        raise TgoError(str(error).replace(str(converted), str(path))) from error
