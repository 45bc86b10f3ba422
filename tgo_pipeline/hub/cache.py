"""Pickled weights, converted once to safetensors and kept in the user's cache (`user_cache.py`)."""

from __future__ import annotations

import contextlib
import fcntl
import logging
from collections.abc import Iterator
from pathlib import Path

from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.fingerprints import sha256
from tgo_pipeline.storage.user_cache import folder, is_writable, location
from tgo_pipeline.storage.writing import atomic

__all__ = ["as_safetensors", "folder", "location", "named_as", "sha256"]
log = logging.getLogger("tgo")
PICKLES = (".pt", ".pth", ".bin")


def as_safetensors(path: Path) -> Path:
    """The safetensors conversion of a pickled weight file, made once; other files, and all without a cache, as is.

    Tensors keep their type. Raises `TgoError` if the file is damaged or holds anything but a state dict.
    """
    if path.suffix not in PICKLES or not is_writable():
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
