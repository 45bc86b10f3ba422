"""Files of object stores on this machine: as many bytes as TGO_STORE_CACHE_GB allows, those used last.

A file's name says what it holds, so that it never changes. A process keeps a lock (flock) on the last few that it used,
and nobody removes those; where files cannot be locked, a reader whose file is gone fails and reads no other bytes.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import RLock, get_ident

from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.disk import explain_disk
from tgo_pipeline.storage.user_cache import folder

log = logging.getLogger("tgo")
VARIABLE, MOST_GB = "TGO_STORE_CACHE_GB", 20.0
"""The bound: a hundred shards of 256 images of 1024 pixels."""
IN_USE = 8
"""Files that a process may be reading: one shard in work, the next, and what threads have begun."""
_used: OrderedDict[str, int] = OrderedDict()
_guard = RLock()


def most_bytes() -> int:
    """The bound in bytes. Raises `TgoError` for a variable that is no number above zero."""
    given = os.environ.get(VARIABLE, "")
    try:
        found = float(given) if given else MOST_GB
    except ValueError:
        found = -1.0
    if not found > 0:
        raise TgoError(f"the variable {VARIABLE} is {given!r}: it must be gigabytes above 0.")
    return int(found * 1e9)


def place() -> Path:
    """The folder of the cache."""
    return folder("stores")


def kept(name: str) -> Path | None:
    """A file of the cache, in use by this process from now on; None if it is not there."""
    path = place() / name
    return path if _use(path) else None


def held(name: str, size_bytes: int, fill: Callable[[Path], None]) -> Path:
    """A file of the cache, made by `fill` where it is not there, in use by this process from now on."""
    path = place() / name
    with explain_disk(path):
        while not _use(path):
            with _alone(path):
                if not path.exists():
                    make_room(size_bytes)
                    with _temporary(path) as temporary:
                        fill(temporary)
                        temporary.replace(path)
    return path


def take(source: Path, name: str) -> None:
    """Move a file into the cache, where there is room: it may be read next."""
    path, size = place() / name, source.stat().st_size
    if size > most_bytes():
        source.unlink()
        return
    make_room(size)
    try:
        source.replace(path)
    except OSError:  # another file system: whoever wants it fetches it
        source.unlink(missing_ok=True)


def make_room(size_bytes: int) -> None:
    """Remove the files used longest ago until this many bytes fit, but none that a process uses."""
    files = []
    for path in place().iterdir():
        with contextlib.suppress(OSError):
            stat = path.stat()
            files.append((stat.st_atime_ns, stat.st_size, path))
    left = sum(size for _, size, _ in files) + size_bytes - most_bytes()
    for _, size, path in sorted(files):
        if left <= 0:
            return
        if _evict(path):
            left -= size


def _evict(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        path.unlink(missing_ok=True)
        return True
    except OSError:  # in use, or no locks here
        return False
    finally:
        os.close(descriptor)


def _use(path: Path) -> bool:
    """Lock a file of the cache as one that is read; whether it is there."""
    with _guard:
        known = _used.pop(str(path), None)
        if known is not None and not path.exists():  # the cache may be deleted at any time
            os.close(known)
            known = None
        if known is None:
            known = _locked(path)
            if known is None:
                return False
        _used[str(path)] = known
        while len(_used) > IN_USE:
            os.close(_used.popitem(last=False)[1])
    # The time of use is the order in which files go; the time of change says that a file is the same.
    with contextlib.suppress(OSError):
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
    return True


def _locked(path: Path) -> int | None:
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return None
    with contextlib.suppress(OSError):  # a file system without locks
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    with contextlib.suppress(OSError):
        if os.path.samestat(os.fstat(descriptor), os.stat(path)):
            return descriptor
    os.close(descriptor)  # removed between opening and locking
    return None


@contextlib.contextmanager
def _alone(path: Path) -> Iterator[None]:
    """One process at a time fetches a file; others wait for it."""
    locks = folder("store-locks")
    with (locks / f"{path.name}.lock").open("w") as stream:
        with contextlib.suppress(OSError):
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield
        Path(stream.name).unlink(missing_ok=True)


@contextlib.contextmanager
def _temporary(path: Path) -> Iterator[Path]:
    """A name beside `path`, locked while it is written, so that nobody makes room by it."""
    temporary = path.with_name(f".{os.getpid()}-{get_ident()}-{path.name}")
    descriptor = os.open(temporary, os.O_CREAT | os.O_RDONLY, 0o644)
    try:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield temporary
    finally:
        os.close(descriptor)
        temporary.unlink(missing_ok=True)
