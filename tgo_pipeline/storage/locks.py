"""One process at a time in a folder, or on a file."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import functools
import logging
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from tgo_pipeline.errors import TgoError

log = logging.getLogger("tgo")
HELD = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES)
"""What `flock` answers while another process holds the file; EACCES on some network file systems."""
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)
"""What it answers where the file system, or its server, has no locks."""


class Held(TgoError):
    """Another process holds what was to be locked."""


@contextlib.contextmanager
def lock(folder: Path, *, leave_file: bool = True, together: bool = False) -> Iterator[None]:
    """Hold `folder` for this process; raises `Held` at once if another one holds it. Ends with the process.

    Processes that all hold it `together` do not exclude each other.

    The file that is locked, `.NAME.lock` beside the folder, stays there, or goes at the end if not `leave_file`.
    Where the file system has no locks the run continues unprotected, and says so once.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with lock_path(folder, leave_file=leave_file, together=together):
        yield


@contextlib.contextmanager
def lock_path(path: Path, *, leave_file: bool = True, together: bool = False) -> Iterator[None]:
    """Hold a file or a folder, which need not be there yet, as `lock` does."""
    file = path.parent / f".{path.name}.lock"
    with _locked(file, path, together) as stream:
        stream.truncate(0)
        stream.write(str(os.getpid()))
        stream.flush()
        try:
            yield
        finally:
            if not leave_file:
                file.unlink(missing_ok=True)


@contextlib.contextmanager
def _locked(file: Path, folder: Path, together: bool) -> Iterator[TextIO]:
    """An open file that this process has locked, and that is still the one of its name.

    Between opening and locking, its holder may have removed it: then another process can lock a new one of the name.
    """
    while True:
        with file.open("a+") as stream:
            if not _take(stream, together):
                stream.seek(0)
                holder = stream.read().strip() or "unknown"
                raise Held(
                    f"{folder} is being written by another run (process {holder}): wait for it, or end it first."
                )
            if _is_there(stream, file):
                yield stream
                return


def _is_there(stream: TextIO, file: Path) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(stream.fileno()), file.stat())
    return False


def _take(file: TextIO, together: bool) -> bool:
    """Lock an open file if no other process holds it; whether none does. Raises `TgoError` where that fails."""
    try:
        fcntl.flock(file, (fcntl.LOCK_SH if together else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in HELD:
            return False
        if error.errno not in NO_LOCKS:
            raise TgoError(
                f"{file.name} cannot be locked ({error.strerror}): check the disk it is on."
            ) from error
        _warn_of_no_locks(error.strerror)
    return True


@functools.cache  # once a process is enough
def _warn_of_no_locks(reason: str) -> None:
    log.warning(
        "files cannot be locked here (%s): make sure that no other run writes to the same folders", reason
    )
