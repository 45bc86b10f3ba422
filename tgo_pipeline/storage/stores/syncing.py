"""A project's folders brought together with the object store that `runtime.data` names."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats import checksums, object_stores
from tgo_pipeline.storage import digests
from tgo_pipeline.storage.paths import SHARD_NAME
from tgo_pipeline.storage.stores import mirror
from tgo_pipeline.storage.stores.stubs import Stub, footer_bytes, make_stub, read_stub
from tgo_pipeline.storage.writing import atomic, replace_text

log = logging.getLogger("tgo")
AT_ONCE = 16
"""Files that are asked for at a time: a request takes some ten milliseconds, whatever its size."""
FOOTER_BYTES = 64 << 10
"""What is read of a file's end at first: the footer of a shard of images has some ten kilobytes."""


def attach(data: Path, url: str | None) -> None:
    """Let the shards below `data` lie at this address from now on; with None, here.

    Raises `TgoError` if shards lie at another one: nothing is moved.
    """
    marker = data / mirror.MARKER
    before = marker.read_text(encoding="utf-8").strip() if marker.is_file() else None
    url = None if url is None else object_stores.require_address(url, object_stores.WRITABLE)
    if before == url:
        return
    if before is not None and (stubs := _stubs(data)):
        raise TgoError(
            f"runtime.data is {url}, and {stubs} shards of {data} lie at {before}: set it to that; or copy what is "
            f"there, and write the new address into {marker}."
        )
    if url is None:
        marker.unlink()
    else:
        data.mkdir(parents=True, exist_ok=True)
        replace_text(marker, f"{url}\n")
    mirror.forget()


def _stubs(data: Path) -> int:
    return sum(read_stub(path) is not None for path in data.rglob("*.parquet"))


def bring_together(
    folder: Path, done: Collection[str], others: Collection[str], *, give: bool = False
) -> set[str]:
    """Compare a folder with the store by the names of planned shards, which are `done` here or are not. Returns the
    names whose files here may have changed.

    What is not done here is taken from the store where it is whole there. A stub whose shard is not there any more is
    removed; another file that the store lacks is written there with `give`.
    """
    address = mirror.address_of(folder)
    if address is None:
        return set()
    there = _listed(address)
    wanted = there.keys() & set(others)
    _each(lambda name: _pull(folder / name, f"{address}/{name}", there[name]), wanted)
    lacking = [name for name in done if _lacks(folder / name, there)]
    _each(lambda name: _restore(folder / name, give=give), lacking)
    return {*wanted, *lacking}


def _each(work: Callable[[str], None], names: Iterable[str]) -> None:
    with ThreadPoolExecutor(AT_ONCE) as pool:
        for _ in pool.map(work, sorted(names)):
            pass


def _lacks(path: Path, there: dict[str, int]) -> bool:
    stub = read_stub(path)
    return there.get(path.name) != (path.stat().st_size if stub is None else stub.size_bytes)


def _listed(address: str) -> dict[str, int]:
    """The size of each shard that is whole: its digest is there too."""
    found = {each.url.rpartition("/")[2]: each.size_bytes for each in object_stores.listed(address)}
    return {
        name: size
        for name, size in found.items()
        if SHARD_NAME.fullmatch(name) and checksums.beside(name) in found
    }


def _pull(path: Path, url: str, size_bytes: int) -> None:
    """Take a shard of the store: its digest and its stub, or all of a table of numbers."""
    digest = mirror.stored_digest(url)
    if digest is None:
        return
    stub = Stub(size_bytes, digest)
    if path.is_file() and digests.computed(path) == stub.digest:
        return
    tail = object_stores.read_end(url, size_bytes, FOOTER_BYTES)
    count = footer_bytes(tail, url)
    if count > len(tail):
        tail = object_stores.read_end(url, size_bytes, count)
    with atomic(path, upload=False) as temporary:
        temporary.write_bytes(make_stub(tail[-count:], stub))
        if not mirror.holds_samples(temporary):
            object_stores.fetch(url, temporary)
            if digests.computed(temporary) != stub.digest:
                raise TgoError(
                    f"{url} is damaged: it is not what its digest says. Remove it, and run its stage again."
                )


def _restore(path: Path, *, give: bool) -> None:
    """Write a file to the store, which lacks it; a stub of a shard that it lacks stands for nothing."""
    if read_stub(path) is None:
        if not give:
            return
        log.info("%s: not in the store, writing it there", path)
        with atomic(path) as temporary:
            try:
                os.link(path, temporary)
            except OSError:  # a file system without links
                shutil.copyfile(path, temporary)
        return
    log.warning("%s: the store has no such shard any more", path)
    digests.sidecar(path).unlink(missing_ok=True)
    path.unlink()


def remove_others(folder: Path, planned: Collection[str]) -> None:
    """Remove shards of the store that are not planned."""
    if (address := mirror.address_of(folder)) is None:
        return
    for name in sorted(_listed(address).keys() - set(planned)):
        log.info("removing %s/%s: not in the plan", address, name)
        object_stores.remove(mirror.digest_of(f"{address}/{name}"))
        object_stores.remove(f"{address}/{name}")
