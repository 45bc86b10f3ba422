"""What a result depends on, as a short hash: equal fingerprints mean the same numbers."""

import dataclasses
import hashlib
import json
from pathlib import Path
from typing import Any

from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.digests import is_sidecar
from tgo_pipeline.storage.user_cache import sha256


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
