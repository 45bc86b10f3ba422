"""Images inside the page: small re-encodings of images that come from the shards, within a budget of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.formats.parquet_files import each
from tgo_pipeline.storage.paths import parquet_files
from tgo_pipeline.storage.tables import RERUN, open_parquet

if TYPE_CHECKING:
    import pyarrow.parquet as pq
    from PIL.Image import Image

LARGEST_SIDE = 256
"""Pixels of the longer side of an image in the text."""
LOSSLESS_SIDE = 64
"""Up to this side an original is enlarged on the page, where lossy compression would show."""
QUALITY = 85
BUDGET_BYTES = 12_000_000
"""What all images in the text may take of the page."""


@dataclass(frozen=True)
class Thumbnail:
    """A thumbnail as a `data:` address with the size of the original, or the reason why there is none."""

    source: str | None
    width: int = 0
    height: int = 0
    reason: str = ""

    @property
    def pixelated(self) -> bool:
        """Whether the original is so small that enlarging it must show its pixels."""
        return 0 < max(self.width, self.height) <= LOSSLESS_SIDE


def make_picture(data: bytes | None, side: int = LARGEST_SIDE) -> Thumbnail:
    """Decode and re-encode one image; what cannot be decoded becomes an image with a reason."""
    from tgo_pipeline.rewards.engine.decode import UnreadableImage, decode

    if not data:
        return Thumbnail(None, reason="no image is stored")
    try:
        image = decode(data)
    except UnreadableImage as error:
        return Thumbnail(None, reason=str(error))
    encoded = base64.b64encode(thumbnail(image, side)).decode()
    return Thumbnail(f"data:image/webp;base64,{encoded}", *image.size)


@dataclass
class Album:
    """Makes thumbnails until `budget` bytes of the page are spent; later images are left out and say so."""

    budget: int = BUDGET_BYTES
    spent: int = 0
    shown: int = 0
    _made: dict[bytes, Thumbnail] = field(default_factory=dict)

    def add(self, data: bytes | None) -> Thumbnail:
        """A thumbnail of one image, or the reason why there is none; equal images are counted once."""
        if data in self._made:
            return self._made[data]
        picture = make_picture(data)
        if data is None or picture.source is None:
            return picture
        if self.spent + len(picture.source) > self.budget:
            reason = "left out: the images of this page have reached their limit"
            return Thumbnail(None, picture.width, picture.height, reason)
        self.spent += len(picture.source)
        self.shown += 1
        self._made[data] = picture
        return picture


def thumbnail(image: Image, side: int) -> bytes:
    """An RGB image as WebP with no side above `side` pixels; what has at most 64 pixels a side stays lossless."""
    from PIL import Image

    stream = io.BytesIO()
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    lossless = max(image.size) <= LOSSLESS_SIDE
    effort = (
        0 if lossless else QUALITY
    )  # without loss it is not quality but the time to spend: more saves nothing
    small.save(stream, "WEBP", quality=effort, method=4, lossless=lossless)
    return stream.getvalue()


def read_images(folder: Path, sample_ids: Iterable[str]) -> dict[str, tuple[str, bytes | None]]:
    """(prompt, image bytes) of the wanted samples, from the generation shards of a folder."""
    return {row["sample_id"]: (row["prompt"], row["image"]) for row in stream_images(folder, sample_ids)}


def stream_images(folder: Path, sample_ids: Iterable[str]) -> Iterator[dict[str, Any]]:
    """`sample_id`, `prompt`, `seed` and `image` (bytes or None) of the wanted samples in the order of the shards.

    Reads the `sample_id` column of each shard and then only the row groups that hold a wanted sample, one at a time.
    """
    wanted = set(sample_ids)
    for path in parquet_files(folder):
        if not wanted:
            return
        with open_parquet(path) as file:
            for group in range(file.num_row_groups):
                for row in each(_wanted_rows(file, group, wanted), path, RERUN):
                    wanted.discard(row["sample_id"])
                    yield row


def _wanted_rows(file: pq.ParquetFile, group: int, wanted: set[str]) -> Iterator[dict[str, Any]]:
    ids = file.read_row_group(group, columns=["sample_id"])["sample_id"].to_pylist()
    places = [place for place, sample_id in enumerate(ids) if sample_id in wanted]
    if not places:
        return
    columns = ["sample_id", "prompt", "seed", "image"]
    for row in file.read_row_group(group, columns=columns).take(places).to_pylist():
        yield row | {"image": row["image"] and row["image"]["bytes"]}
