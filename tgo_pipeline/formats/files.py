"""Files that a user names: regular ones alone, of a size that can be read.

A pipe would wait for ever, `/dev/zero` has no end, and what is below `/proc` is made up while it is read.
"""

from __future__ import annotations

import errno
import os
import stat
from functools import cache
from pathlib import Path
from typing import BinaryIO

WHOLE_BYTES = 256 * 1024**2
"""The largest text (JSON, YAML, a caption) that is read as a whole; tables are read in pieces."""
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_MADE_UP = ("/proc", "/sys")


class NotAFile(OSError):
    """What a path names cannot be read as a file; `strerror` says what it is."""


def require_regular(path: str | os.PathLike[str], most_bytes: int | None = None) -> None:
    """Raise `NotAFile` unless a path names a file with an end, of at most `most_bytes`, and `OSError` if nothing."""
    found = os.stat(path)
    kind = stat.S_IFMT(found.st_mode)
    if kind == stat.S_IFDIR:
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if kind != stat.S_IFREG:
        raise NotAFile(errno.EINVAL, f"it is {_KINDS.get(kind, 'of another kind')}, not a file", str(path))
    if found.st_dev in _made_up():
        raise NotAFile(errno.EINVAL, "the system makes it up while it is read: copy it to a file", str(path))
    if most_bytes is not None and found.st_size > most_bytes:
        size, most = (f"{number / 1e6:,.1f} MB" for number in (found.st_size, most_bytes))
        raise NotAFile(
            errno.EFBIG, f"it has {size}, more than the {most} that are read as a whole", str(path)
        )


def open_regular(path: str | os.PathLike[str]) -> BinaryIO:
    """A file for reading. Raises what `require_regular` raises."""
    require_regular(path)
    return Path(path).open("rb")


def read_bytes(path: str | os.PathLike[str], most_bytes: int = WHOLE_BYTES) -> bytes:
    """The content of a file. Raises what `require_regular` raises, before anything is read."""
    require_regular(path, most_bytes)
    return Path(path).read_bytes()


def read_text(path: str | os.PathLike[str], most_bytes: int = WHOLE_BYTES) -> str:
    """The content of a text file in UTF-8, with or without a byte order mark.

    Raises what `require_regular` raises, and `UnicodeDecodeError`.
    """
    return read_bytes(path, most_bytes).decode("utf-8-sig")


@cache
def _made_up() -> frozenset[int]:
    """The file systems whose files are no files."""
    return frozenset(os.stat(root).st_dev for root in _MADE_UP if os.path.ismount(root))
