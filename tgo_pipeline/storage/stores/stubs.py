"""What stands for a shard of images on this machine while its bytes lie in an object store.

A stub has the shard's name and its Parquet footer, so that whoever reads schema, metadata or the number of rows reads
them here and asks no store; any other reader finds less than the footer promises, and fails. Before the footer it says
how large the file is and what it holds: two stubs of one content are equal.
"""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from tgo_pipeline.errors import TgoError

MAGIC = b"TGO-STUB"
HEAD_BYTES = len(MAGIC) + 8 + 16
TAIL_BYTES = 8
"""Of a Parquet file: the length of its footer, and its own magic."""


class Stub(NamedTuple):
    """The size of a file that lies elsewhere, and its xxh3-128."""

    size_bytes: int
    digest: str


def read_stub(path: Path) -> Stub | None:
    """What a stub says of its file; None for any other file, or none."""
    try:
        with path.open("rb") as stream:
            head = stream.read(HEAD_BYTES)
    except OSError:
        return None
    if len(head) < HEAD_BYTES or not head.startswith(MAGIC):
        return None
    size, digest = head[len(MAGIC) : len(MAGIC) + 8], head[len(MAGIC) + 8 :]
    return Stub(int.from_bytes(size, "little"), digest.hex())


def size_bytes(path: Path) -> int:
    """How large a shard is, wherever its bytes lie."""
    stub = read_stub(path)
    return path.stat().st_size if stub is None else stub.size_bytes


def make_stub(footer: bytes, stub: Stub) -> bytes:
    """The content of a stub."""
    return MAGIC + stub.size_bytes.to_bytes(8, "little") + bytes.fromhex(stub.digest) + footer


def footer_bytes(tail: bytes, where: str) -> int:
    """How many bytes at the end of a Parquet file are its footer. Raises `TgoError` if it does not end as one."""
    if len(tail) < TAIL_BYTES or tail[-4:] != b"PAR1":
        raise TgoError(f"{where} is no Parquet file, or not whole: remove it there, and run its stage again.")
    return int.from_bytes(tail[-TAIL_BYTES:-4], "little") + TAIL_BYTES


def footer_of(path: Path) -> bytes:
    """The footer of a Parquet file."""
    with path.open("rb") as stream:
        stream.seek(-TAIL_BYTES, 2)
        count = footer_bytes(stream.read(), str(path))
        stream.seek(-count, 2)
        return stream.read()
