"""Files and folders that appear whole or not at all: written to a temporary name, synced, renamed."""

from __future__ import annotations

import contextlib
import functools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tgo_pipeline.storage.disk import explain_disk

TEMPORARY = ".tmp-"


@contextlib.contextmanager
def atomic(path: Path) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success sync it and rename it to `path`, else remove it.

    Raises `TgoError` if the disk is full, or may not be written.
    """
    temporary = path.with_name(f"{TEMPORARY}{os.getpid()}-{path.name}")
    try:
        with explain_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep_once(path.parent.absolute())
            yield temporary
            sync(temporary)
            temporary.replace(path)
            sync(path.parent)
    finally:
        with contextlib.suppress(OSError):  # a folder that may not be written has no temporary file either
            temporary.unlink()


@contextlib.contextmanager
def atomic_folder(folder: Path) -> Iterator[Path]:
    """Yield a temporary folder; on success sync all of it and replace `folder` with it, else remove it.

    Raises `TgoError` if the disk is full, or may not be written.
    """
    temporary = folder.with_name(f"{TEMPORARY}{os.getpid()}-{folder.name}")
    try:
        with explain_disk(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)  # of a killed process with the same number
            temporary.mkdir()
            yield temporary
            for path in (*temporary.rglob("*"), temporary):
                sync(path)
            _replace(temporary, folder)
            sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@functools.cache  # a folder may hold many files, and what was left there was so before this process
def _sweep_once(folder: Path) -> None:
    """Remove what killed processes of this machine have left half-written."""
    for path in folder.glob(f"{TEMPORARY}*"):
        process = path.name.removeprefix(TEMPORARY).partition("-")[0]
        if process.isdigit() and not _lives(int(process)) and path.is_file():
            path.unlink(missing_ok=True)


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


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


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, onto the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
