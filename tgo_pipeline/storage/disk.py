"""What a disk refuses, in one line: no room, no right to write, a read-only file system, a failing device."""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from tgo_pipeline.errors import TgoError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""A full disk, a used-up quota, and a file larger than the system allows."""
NO_RIGHT = (errno.EACCES, errno.EPERM)
READ_ONLY = (errno.EROFS,)
FAILING = (errno.EIO, errno.ESTALE, errno.ENXIO, errno.ENODEV)
REFUSALS = {number: os.strerror(number) for number in (*NO_ROOM, *NO_RIGHT, *READ_ONLY, *FAILING)}
"""What the system calls each of them: libraries in other languages pass on this text and no number."""


def refused(error: BaseException) -> int | None:
    """The number of the refusal that an error stands for; None for any other error."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno if error.errno in REFUSALS else None
    said = str(error)
    return next((number for number, text in REFUSALS.items() if f"{text} (os error" in said), None)


def explanation(error: BaseException, path: Path | None = None) -> TgoError | None:
    """What a disk refused and what to do; None for any other error. `path` is what was being written."""
    number, named = refused(error), _named(error)
    if number is None:
        return _other(error, named)
    place = path if path is not None and (named is None or number in NO_ROOM or path.name in named) else named
    place = place or Path.cwd()
    if number in NO_ROOM:
        return TgoError(
            f"the disk is full while writing {place}: nothing half-written is left; make room and run again."
        )
    if number in READ_ONLY:
        return TgoError(
            f"{place} cannot be written, its file system is read-only: run in a folder that can be written."
        )
    if number in NO_RIGHT:
        return TgoError(
            f"{place} cannot be opened ({REFUSALS[number]}): give the user who runs this the right to read and write "
            "it, or run in another folder."
        )
    return TgoError(f"{place}: the disk fails ({REFUSALS[number]}): check it, then run again.")


def _named(error: BaseException) -> str | None:
    """The file that an error of the system names."""
    named = getattr(error, "filename", None)
    return os.fsdecode(named) if isinstance(named, str | bytes | os.PathLike) else None


def _other(error: BaseException, named: str | None) -> TgoError | None:
    """An error of one file: a name that is too long, a folder in its place, a link in a circle."""
    if not isinstance(error, OSError) or named is None or not error.strerror:
        return None
    return TgoError(f"{named} cannot be used ({error.strerror}): check its name and what lies there.")


@contextlib.contextmanager
def explain_disk(path: Path) -> Iterator[None]:
    """Turn what a disk refuses into a `TgoError`; the caller removes what it has half-written to `path`."""
    try:
        yield
    except TgoError:
        raise
    except Exception as error:
        if refused(error) is None:
            raise
        raise explanation(error, path) or error from error
