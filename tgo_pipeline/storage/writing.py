"""Files and folders that appear whole or not at all: written to a temporary name, synced, renamed.

A table or a file of tensors gets a sidecar with its digest (`digests`), a folder one file with those of all its files.
"""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from tgo_pipeline.storage import digests
from tgo_pipeline.storage.disk import explain_disk
from tgo_pipeline.storage.stores import mirror

TEMPORARY = ".tmp-"
WRITER = re.compile(re.escape(TEMPORARY) + r"((?P<host>[A-Za-z0-9]+)-)?(?P<process>\d+)-")
"""How the name of a temporary begins; earlier versions left the machine out."""
MOST_HOST = 40
"""Characters of the machine's name in one: a file's name may have 255 bytes, and a reward's name is in some."""
ABANDONED_S = 24 * 3600
"""No write takes a day; whether a process of another machine runs cannot be seen."""


@contextlib.contextmanager
def atomic(path: Path, *, upload: bool = True) -> Iterator[Path]:
    """Yield a temporary name beside `path`; on success sync it and rename it to `path`, else remove it.

    A shard of a folder in an object store is written there too, before it appears here, unless not `upload`. What
    killed processes left in the folder is removed first. Raises `TgoError` if the disk is full, or may not be
    written.
    """
    temporary = _temporary(path)
    try:
        with explain_disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            _sweep_once(path.parent.absolute())
            yield temporary
            digest = digests.computed(temporary) if path.suffix in digests.KINDS else None
            if upload and digest is not None:
                mirror.upload(temporary, path, digest)
            sync(temporary)
            # A kill between these steps leaves a file without a sidecar, never one with that of another content.
            digests.sidecar(path).unlink(missing_ok=True)
            temporary.replace(path)
            if digest is not None:
                _write_sidecar(path, digest)
            sync(path.parent)
    finally:
        with contextlib.suppress(OSError):  # a folder that may not be written has no temporary file either
            temporary.unlink()


def _temporary(path: Path) -> Path:
    """A name beside `path` that tells which process of which machine writes there."""
    return path.with_name(f"{TEMPORARY}{_host()}-{os.getpid()}-{path.name}")


def _host() -> str:
    return re.sub(r"[^A-Za-z0-9]", "", socket.gethostname())[:MOST_HOST] or "host"


def _write_sidecar(path: Path, digest: str) -> None:
    replace_text(digests.sidecar(path), digests.line(path, digest))


def replace_text(path: Path, text: str) -> None:
    """Write a small text whole or not at all."""
    temporary = _temporary(path)
    try:
        temporary.write_text(text, encoding="utf-8")
        sync(temporary)
        temporary.replace(path)
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def adopt(path: Path) -> None:
    """Write the sidecar that a file lacks, of what it holds now; nothing where the folder cannot be written."""
    with contextlib.suppress(OSError):
        _write_sidecar(path, digests.computed(path))


def adopt_folder(folder: Path) -> None:
    """Write the digests that a folder lacks, of what its files hold now; nothing where it cannot be written."""
    with contextlib.suppress(OSError):
        replace_text(folder / digests.MANIFEST, digests.manifest(folder))


@contextlib.contextmanager
def scratch(beside: Path) -> Iterator[Path]:
    """A folder for what does not fit into memory, on the disk of `beside`; gone at the end, or swept after a kill.

    Raises `TgoError` if the disk is full, or may not be written.
    """
    folder = _temporary(beside.with_name(f"{beside.stem}-scratch"))
    try:
        with explain_disk(beside):
            folder.parent.mkdir(parents=True, exist_ok=True)
            _sweep_once(folder.parent.absolute())
            shutil.rmtree(folder, ignore_errors=True)  # of a killed process with the same number
            folder.mkdir()
            yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def is_abandoned(temporary: Path) -> bool:
    """Whether the process that wrote a temporary file or folder has ended, or a day has passed on another machine."""
    found = WRITER.match(temporary.name)
    if found is None or found["host"] not in (None, _host()):
        with contextlib.suppress(OSError):
            return time.time() - temporary.stat().st_mtime > ABANDONED_S
        return False
    try:
        os.kill(int(found["process"]), 0)
    except OSError as error:  # any other one is of a process that runs, as another user's
        return isinstance(error, ProcessLookupError)
    return False


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written in a folder."""
    for path in folder.glob(f"{TEMPORARY}*"):
        if is_abandoned(path):
            with contextlib.suppress(OSError):
                shutil.rmtree(path) if path.is_dir() else path.unlink()


_sweep_once = functools.cache(sweep)
"""Of a folder in which this process writes; once is enough, since it leaves nothing itself."""


@contextlib.contextmanager
def atomic_folder(folder: Path, *, checked: bool = True) -> Iterator[Path]:
    """Yield a temporary folder; on success sync all of it and replace `folder` with it, else remove it.

    With `checked` it holds the digests of its files (`digests.verify_folder`). Raises `TgoError` if the disk is full,
    or may not be written.
    """
    temporary = _temporary(folder)
    try:
        with explain_disk(folder):
            folder.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(temporary, ignore_errors=True)  # of a killed process with the same number
            temporary.mkdir()
            yield temporary
            if checked:
                (temporary / digests.MANIFEST).write_text(digests.manifest(temporary), encoding="utf-8")
            for path in (*temporary.rglob("*"), temporary):
                sync(path)
            _replace(temporary, folder)
            sync(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _replace(temporary: Path, folder: Path) -> None:
    previous = _temporary(folder.with_name(f"previous-{folder.name}"))
    if folder.exists():
        folder.rename(previous)
    temporary.rename(folder)
    shutil.rmtree(previous, ignore_errors=True)


def remove_folder(folder: Path) -> None:
    """Remove a folder whole or not at all: a kill while it goes leaves a temporary name, which the next run sweeps."""
    going = _temporary(folder)
    shutil.rmtree(going, ignore_errors=True)
    with contextlib.suppress(FileNotFoundError):
        folder.rename(going)
        shutil.rmtree(going)


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
