"""Files and folders that appear whole or not at all: written to a temporary name, synced, renamed."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tgo_pipeline.errors import TgoError

TEMPORARY = ".tmp-"
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, a used-up quota, and a file larger than the system allows."""


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success sync it and rename it to `path`, else remove it.

    Raises `TgoError` if the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with explain_full_disk(path):
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder; on success sync all of it and replace `folder` with it, else remove it.

    Raises `TgoError` if the disk is full.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = folder.with_name(f"{TEMPORARY}{os.getpid()}-{folder.name}")
    try:
        with explain_full_disk(folder):
            shutil.rmtree(temporary, ignore_errors=True)  # of a killed process with the same number
            temporary.mkdir()
            yield temporary
            for path in (*temporary.rglob("*"), temporary):
                sync(path)
            _replace(temporary, folder)
            sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(temporary: Path, folder: Path) -> None:
    previous = temporary.with_name(f"{TEMPORARY}{os.getpid()}-previous-{folder.name}")
    if folder.exists():
        folder.rename(previous)
    temporary.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)


def sweep_temporaries(folder: Path) -> None:
    """Remove what an interrupted `atomic_folder(folder)` left beside it; call it while holding the lock."""
    for path in folder.parent.glob(f"{TEMPORARY}*-{folder.name}"):
        shutil.rmtree(path, ignore_errors=True)


@contextlib.contextmanager
def explain_full_disk(path: Path) -> Iterator[None]:
    """Turn an error about a full disk into a `TgoError`; the caller removes what it has half-written."""
    try:
        yield
    except Exception as error:
        if not want_of_room(error):
            raise
        raise TgoError(
            f"the disk is full while writing {path}: nothing half-written is left; make room and run again."
        ) from error


def want_of_room(error: Exception) -> bool:
    """Whether a disk is full: by the system's error number, or by its text, as safetensors passes on nothing else."""
    return getattr(error, "errno", None) in NO_ROOM or any(
        os.strerror(number) in str(error) for number in NO_ROOM
    )


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
