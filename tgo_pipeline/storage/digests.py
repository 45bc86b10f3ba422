"""What a file held when it was written, in a hidden sidecar beside it, and checked before the file is read.

`.NAME.xxh3` holds one line as `xxh128sum` prints it, so that `xxh128sum --check .NAME.xxh3` checks it too. The digest
finds damage at the speed of memory; where files come from others, sha256 guards against intent (`fingerprints.sha256`).
There is one sidecar a file, because several machines write into one folder.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Iterable
from pathlib import Path

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats import checksums
from tgo_pipeline.formats.checksums import SUFFIX
from tgo_pipeline.storage.stores.mirror import here
from tgo_pipeline.storage.stores.stubs import read_stub

log = logging.getLogger("tgo")
MANIFEST = f".files{SUFFIX}"
"""The digests of all files of a folder that is written as a whole (`writing.atomic_folder`)."""
KINDS = (".parquet", ".safetensors")
"""Files of these kinds get a sidecar wherever they are written (`writing.atomic`)."""


def sidecar(path: Path) -> Path:
    """Where the digest of a file lies."""
    return path.with_name(checksums.beside(path.name))


def is_sidecar(path: Path) -> bool:
    """Whether a file is the sidecar of another one."""
    return path.name.startswith(".") and path.name.endswith(SUFFIX)


def line(path: Path, digest: str) -> str:
    """The content of a file's sidecar."""
    return checksums.line(digest, path.name)


def computed(path: Path) -> str:
    """The xxh3-128 of a file's bytes, 32 hexadecimal digits; computed once, until its size, time or inode changes.

    Of a shard whose bytes lie in an object store it is what its stub says.
    """
    stat = path.stat()
    return _computed(path.absolute(), stat.st_size, stat.st_mtime_ns, stat.st_ino)


@functools.lru_cache(maxsize=1 << 16)
def _computed(path: Path, _size_bytes: int, _modified_ns: int, _inode: int) -> str:
    stub = read_stub(path)
    return checksums.xxh3(path) if stub is None else stub.digest


def stored(path: Path) -> str | None:
    """The digest in a file's sidecar; None if it has none. Raises `TgoError` for a sidecar that holds no digest."""
    beside = sidecar(path)
    try:
        text = beside.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
    found = checksums.read_line(text)
    if found is None:
        raise TgoError(
            f"{beside} is damaged: it should hold the digest of {path.name}. Remove both and run the stage that "
            "writes them again."
        )
    return found[0]


def of(path: Path) -> str:
    """What a file holds: the digest in its sidecar, or of its bytes where it has none."""
    return stored(path) or computed(path)


def of_all(paths: Iterable[Path]) -> str:
    """What several files hold, with their names, as one digest."""
    import xxhash

    return xxhash.xxh3_128("".join(line(path, of(path)) for path in paths).encode()).hexdigest()


def verify(path: Path) -> Path:
    """Check a file against its sidecar, once a process; the file with its bytes, which is the same unless they lie in
    an object store. Raises `TgoError` if it holds something else.

    A file without one, from before there were any or of another tool, is accepted; that is said once for its folder.
    """
    if not path.is_file():
        return path  # whoever reads it says so
    expected, found = stored(path), here(path)
    if expected is None:
        _say_unchecked(path.parent)
    elif computed(found) != expected:
        raise TgoError(
            f"{path} is damaged: its bytes are not those that were written (xxh3-128 {computed(found)}, in "
            f"{sidecar(path).name} {expected}). Remove it and run the stage that writes it again; if it was changed "
            f"on purpose, remove {sidecar(path).name} alone."
        )
    return found


@functools.lru_cache(maxsize=1 << 10)
def _say_unchecked(folder: Path) -> None:
    log.info(
        "%s: files without a digest are read unchecked; `tgo status --verify` reads them and notes it", folder
    )


def manifest(folder: Path) -> str:
    """A line for every file of a folder, by its relative name."""
    files = sorted(path for path in folder.rglob("*") if path.is_file() and not is_sidecar(path))
    return "".join(checksums.line(computed(path), path.relative_to(folder).as_posix()) for path in files)


def verify_folder(folder: Path) -> None:
    """Check a folder that was written whole against the digests of its files, if it has them.

    Raises `TgoError` if a file is missing or holds something else.
    """
    listed = folder / MANIFEST
    if not listed.is_file():
        return
    for text in listed.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        found = checksums.read_line(text)
        path = folder / found[1] if found else listed
        if found is None or not path.is_file() or computed(path) != found[0]:
            raise TgoError(
                f"{path} is damaged: it is not what was written (the digests are in {listed}). Remove {folder} and "
                f"make it again; if it was changed on purpose, remove {listed} alone."
            )
