"""Which object a shard of this project is, and its way there and back.

`data/.store` says where the shards below `data/` lie (`runtime.data`). A shard is written here first, then there; its
digest, `.NAME.xxh3` beside it, is removed before it and written after it, so that a shard without one is not whole.
What holds images stays here as a stub alone; tables of numbers stay here whole.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats import checksums, object_stores
from tgo_pipeline.formats.parquet_files import explained, named
from tgo_pipeline.storage.paths import SHARD_NAME
from tgo_pipeline.storage.stores import cache
from tgo_pipeline.storage.stores.stubs import Stub, footer_of, make_stub, read_stub

if TYPE_CHECKING:
    import pyarrow as pa

MARKER = ".store"
"""The file in `data/` that holds the address of the store's folder."""
DEPTH = 4
"""Folders between `data/` and a shard: data/evaluation/NAME/generations is the deepest."""
SAMPLES = ("image", "video", "preview")
"""Columns whose bytes make a shard large."""


def address_of(folder: Path) -> str | None:
    """Where the shards of a folder lie; None for one whose shards are here alone."""
    return _address_of(folder.absolute())


@functools.lru_cache(maxsize=1 << 10)
def _address_of(folder: Path) -> str | None:
    if any(part.startswith(".") for part in folder.parts[-2:]):
        return None  # what is finished of a shard in work
    for root in (folder, *folder.parents[:DEPTH]):
        if (marker := root / MARKER).is_file():
            url = object_stores.require_address(marker.read_text(encoding="utf-8").strip())
            return f"{url}/{folder.relative_to(root).as_posix()}"
    return None


def forget() -> None:
    """Look for the address again: it was written, or removed."""
    _address_of.cache_clear()


def object_of(path: Path) -> str | None:
    """The address of a shard; None where it is here alone, as every other file."""
    if SHARD_NAME.fullmatch(path.name) is None or (folder := address_of(path.parent)) is None:
        return None
    return f"{folder}/{path.name}"


def digest_of(url: str) -> str:
    """The address of a shard's digest."""
    folder, _, name = url.rpartition("/")
    return f"{folder}/{checksums.beside(name)}"


def stored_digest(url: str) -> str | None:
    """The digest that lies beside a shard in the store; None if nobody who writes shards has written it."""
    found = checksums.read_line(object_stores.read(digest_of(url)).decode(errors="replace"))
    return found[0] if found else None


def upload(temporary: Path, path: Path, digest: str) -> None:
    """Write a shard that is finished under a temporary name; what holds images is replaced there by its stub."""
    url = object_of(path)
    if url is None:
        return
    object_stores.remove(digest_of(url))  # nobody shall take the new bytes for those of the old digest
    object_stores.put(temporary, url)
    object_stores.put_bytes(checksums.line(digest, path.name).encode(), digest_of(url))
    if holds_samples(temporary):
        footer, stub = footer_of(temporary), Stub(temporary.stat().st_size, digest)
        cache.take(temporary, digest)
        temporary.write_bytes(make_stub(footer, stub))


def holds_samples(path: Path) -> bool:
    """Whether a table has images or clips, by its footer."""
    import pyarrow.parquet as pq

    with explained(path):
        return any(name in SAMPLES for name in named(pq.read_schema(path)).names)


def here(path: Path) -> Path:
    """A file with the bytes of a shard: itself, or of a stub the file that it stands for, fetched if need be.

    Raises `TgoError` if it cannot be fetched, or the store holds something else by now.
    """
    stub = read_stub(path)
    if stub is None:
        return path
    return cache.held(stub.digest, stub.size_bytes, lambda temporary: _fetch(path, stub, temporary))


def _fetch(path: Path, stub: Stub, temporary: Path) -> None:
    url = _known(path)
    object_stores.fetch(url, temporary)
    if temporary.stat().st_size != stub.size_bytes or checksums.xxh3(temporary) != stub.digest:
        raise _changed(path, url)


def _known(path: Path) -> str:
    url = object_of(path)
    if url is None:
        raise TgoError(
            f"{path} stands for a shard in an object store, and nothing says in which: set runtime.data to where it "
            "lies, and run `tgo status`."
        )
    return url


def _changed(path: Path, url: str) -> TgoError:
    return TgoError(
        f"{url} is not what {path} stands for: another run has written it, or it is damaged. Remove {path} and run its "
        "stage again, which takes what the store has where that fits the parameters."
    )


def is_elsewhere(path: Path) -> bool:
    """Whether the bytes of a shard would have to be fetched."""
    stub = read_stub(path)
    return stub is not None and cache.kept(stub.digest) is None


def read_columns(path: Path, columns: Sequence[str]) -> pa.Table:
    """Some columns of a shard that is elsewhere, by ranged reads; the footer is the stub's. Of one that came here
    meanwhile they are read here.

    Raises `TgoError` if the store holds another shard by now, by its size or its digest.
    """
    import pyarrow.parquet as pq

    stub = read_stub(path)
    if stub is None:
        with explained(path):
            return pq.read_table(path, columns=list(columns))
    url = _known(path)
    if stored_digest(url) != stub.digest:
        raise _changed(path, url)
    with explained(path):
        footer = pq.read_metadata(path)

    def reader(stream: pa.NativeFile) -> pa.Table:
        if stream.size() != stub.size_bytes:
            raise _changed(path, url)
        return pq.ParquetFile(stream, metadata=footer).read(columns=list(columns))

    return object_stores.use(url, reader)
