"""What a result depends on, as a short hash: equal fingerprints mean the same numbers."""

import contextlib
import dataclasses
import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.files import NotAFile, require_regular
from tgo_pipeline.storage.digests import is_sidecar
from tgo_pipeline.storage.user_cache import folder, is_writable
from tgo_pipeline.storage.writing import atomic

REMEMBERED_FROM_BYTES = 4 << 20
"""Smaller files are hashed every time: that is as fast as looking the hash up."""


def fingerprint(**parts: Any) -> str:
    """Hash named parts (JSON values, dataclasses, paths) to 16 hexadecimal digits, independent of their order."""
    text = json.dumps(parts, sort_keys=True, default=_plain, ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} cannot enter a fingerprint")


def content_fingerprint(path: Path) -> str:
    """Hash a file, or every file of a folder with its relative name. Raises `TgoError` if there is none.

    A large file is read once: its hash is remembered until its size, time or inode changes.
    """
    if not path.exists():
        raise TgoError(f"{path} does not exist.")
    files = (
        sorted(p for p in path.rglob("*") if p.is_file() and not is_sidecar(p)) if path.is_dir() else [path]
    )
    digest = hashlib.sha256()
    for file in files:
        digest.update(str(file.relative_to(path) if path.is_dir() else file.name).encode() + b"\0")
        digest.update(bytes.fromhex(sha256(file)))
    return digest.hexdigest()[:16]


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
