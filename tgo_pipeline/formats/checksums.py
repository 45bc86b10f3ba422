"""The xxh3-128 of a file, and how it is written beside it: `.NAME.xxh3` holds one line as `xxh128sum` prints it."""

from __future__ import annotations

import re
from pathlib import Path

SUFFIX = ".xxh3"
BUFFER_BYTES = 1 << 20
"""Larger ones fall out of the processor's cache between reading and hashing."""
_LINE = re.compile(r"(?P<digest>[0-9a-f]{32})  (?P<name>.+)\n")


def xxh3(path: Path) -> str:
    """The digest of a file's bytes, 32 hexadecimal digits."""
    import xxhash

    digest = xxhash.xxh3_128()
    buffer = memoryview(bytearray(BUFFER_BYTES))
    with path.open("rb", buffering=0) as stream:
        while count := stream.readinto(buffer):
            digest.update(buffer[:count])
    return digest.hexdigest()


def beside(name: str) -> str:
    """The name of the file that holds the digest of another one."""
    return f".{name}{SUFFIX}"


def line(digest: str, name: str) -> str:
    """A digest as it is written; `name` is that of its file."""
    return f"{digest}  {name}\n"


def read_line(text: str) -> tuple[str, str] | None:
    """The digest and the name in a line; None for any other text."""
    found = _LINE.fullmatch(text)
    return (found["digest"], found["name"]) if found else None
