"""The images that are to be rated, by the names that feedback finds them by."""

from __future__ import annotations

import functools
import io
import logging
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tgo_pipeline import images
from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.files import read_bytes
from tgo_pipeline.formats.limits import IMAGES
from tgo_pipeline.formats.parquet_values import StoredValue
from tgo_pipeline.formats.remote import Remote
from tgo_pipeline.formats.video_files import UnreadableVideo, preview, read_frames
from tgo_pipeline.images.base import END, Row, printable
from tgo_pipeline.images.columns import Columns
from tgo_pipeline.prompts.normalise import normalise
from tgo_pipeline.storage.workspace import HERE

log = logging.getLogger("tgo")
COPIED = 1000
"""Images that are copied without `--limit` where they lie compressed, or on the hub: a day of rating."""
KEPT = 64
"""Previews of clips: a browser asks for each several times."""
SIGNATURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg"}
"""What every browser shows as rewards see it; all else is decoded here and sent as PNG."""


@dataclass(frozen=True)
class RatableImage:
    """One image, or clip: the name that its ratings are stored under, its prompt, and where its bytes lie."""

    name: str
    prompt: str | None
    content: Path | StoredValue
    clip: bool = False


def listed(addresses: Sequence[str], columns: Columns, limit: int | None, copies: Path) -> list[RatableImage]:
    """The images that addresses name, each name once; those that cannot be read where they lie are copied to `copies`.

    Samples of this project go by their `sample_id`, other images by what their source calls them. Raises `TgoError` if
    an address names nothing, or no image at all.
    """
    found: dict[str, RatableImage] = {}
    left_out = 0
    for address in addresses:
        samples = Path(address).resolve() == HERE.generations.resolve()
        for row, clip in _rows(address, columns, limit):
            name = row.uid if row.uid is not None and not samples else row.image
            content = _content(row, copies / f"{len(found):08d}")
            if content is None or name in found:
                left_out += 1
                continue
            found[name] = RatableImage(name, normalise(row.prompt or "") or None, content, clip)
            if len(found) == limit:
                break
    if left_out:
        log.warning(
            "%d rows are left out: their image is missing, or has the name of an earlier one", left_out
        )
    if not found:
        raise TgoError(f"{', '.join(map(printable, addresses))} has no image to rate.")
    return list(found.values())


def _rows(address: str, columns: Columns, limit: int | None) -> Iterator[tuple[Row, bool]]:
    """Rows, and whether they are clips."""
    copied = 0
    for source in images.open([address], columns):
        for row in source.rows(0, END):
            copied += isinstance(row.content, (bytes, Remote))
            if limit is None and copied > COPIED:
                log.warning(
                    "%s: its first %d images are copied to be shown; --limit takes more",
                    printable(address),
                    COPIED,
                )
                return
            yield row, source.clips


def _content(row: Row, copy: Path) -> Path | StoredValue | None:
    if isinstance(row.content, bytes):
        copy.write_bytes(row.content)
        return copy
    if isinstance(row.content, Remote):
        try:
            copy.write_bytes(row.content.read())
        except OSError as error:
            log.warning("%s: %s", row.content.url, error.strerror)
            return None
        return copy
    if isinstance(row.content, Path) and not row.content.is_file():
        return None
    return row.content


def read(image: RatableImage) -> bytes:
    """The stored bytes. Raises `TgoError` if they are gone."""
    if isinstance(image.content, StoredValue):
        return image.content.read()
    try:
        return read_bytes(image.content, IMAGES.file_bytes)
    except OSError as error:
        raise TgoError(f"{printable(os.fspath(image.content))} cannot be read: {error.strerror}.") from error


def shown(image: RatableImage) -> tuple[bytes, str]:
    """Bytes that a browser can show, and their type. Raises `TgoError` if the image cannot be read."""
    if image.clip:
        return _as_preview(image), "video/mp4"
    data = read(image)
    kind = next((kind for start, kind in SIGNATURES.items() if data.startswith(start)), None)
    return (data, kind) if kind else (as_png(data, image.name), "image/png")


@functools.lru_cache(KEPT)
def _as_preview(image: RatableImage) -> bytes:
    """A clip as a small mp4: what its master is coded in no browser plays. Raises `TgoError`."""
    try:
        small = preview(*read_frames(read(image)))
    except UnreadableVideo as error:
        raise TgoError(f"{image.name} cannot be shown: {error}.") from error
    if small is None:
        raise TgoError(f"{image.name} cannot be shown: this PyAV has no x264, which browsers play.")
    return small


def as_png(data: bytes, name: str) -> bytes:
    """An image of any format as PNG. Raises `TgoError` if it cannot be decoded."""
    from tgo_pipeline.rewards.engine.decode import UnreadableImage, decode

    try:
        image = decode(data)
    except UnreadableImage as error:
        raise TgoError(f"{name} cannot be shown: {error}.") from error
    stream = io.BytesIO()
    image.save(stream, "PNG", compress_level=1)
    return stream.getvalue()
