"""Pictures inside the page: small re-encodings of images that come from the shards, within a budget of bytes."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow.parquet as pq

LARGEST_SIDE = 256
LOSSLESS_SIDE = 64
QUALITY = 85
BUDGET_BYTES = 12_000_000


@dataclass(frozen=True)
class Picture:
    """A thumbnail as a `data:` address with the size of the original, or the reason why there is none."""

    source: str | None
    width: int = 0
    height: int = 0
    reason: str = ""

    @property
    def pixelated(self) -> bool:
        """Whether the original is so small that enlarging it must show its pixels."""
        return 0 < max(self.width, self.height) <= LOSSLESS_SIDE


@dataclass
class Album:
    """Makes thumbnails until `budget` bytes are spent; later pictures are left out and say so."""

    budget: int = BUDGET_BYTES
    spent: int = 0
    shown: int = 0
    _made: dict[bytes, Picture] = field(default_factory=dict)

    def add(self, data: bytes | None) -> Picture:
        """Decode and re-encode one image; what cannot be decoded becomes a picture with a reason."""
        from tgo_pipeline.rewards.images import UnreadableImage, decode

        if not data:
            return Picture(None, reason="no image is stored")
        if data in self._made:
            return self._made[data]
        try:
            image = decode(data)
        except UnreadableImage as error:
            return Picture(None, reason=str(error))
        width, height = image.size
        encoded, kind = thumbnail(image)
        if self.spent + len(encoded) > self.budget:
            return Picture(
                None, width, height, "left out: the pictures of this page have reached their limit"
            )
        self.spent += len(encoded)
        self.shown += 1
        address = f"data:image/{kind};base64,{base64.b64encode(encoded).decode()}"
        self._made[data] = Picture(address, width, height)
        return self._made[data]


def thumbnail(image) -> tuple[bytes, str]:
    """An RGB image as (bytes, "png" or "webp") with no side above 256 pixels; up to 64 pixels it stays lossless."""
    from PIL import Image

    stream = io.BytesIO()
    if max(image.size) <= LOSSLESS_SIDE:
        image.save(stream, "PNG", optimize=True)
        return stream.getvalue(), "png"
    small = image.copy()
    small.thumbnail((LARGEST_SIDE, LARGEST_SIDE), Image.Resampling.LANCZOS)
    small.save(stream, "WEBP", quality=QUALITY, method=4)
    return stream.getvalue(), "webp"


def read_images(folder: Path, sample_ids: Iterable[str]) -> dict[str, tuple[str, bytes | None]]:
    """(prompt, image bytes) of the wanted samples, from the generation shards of a folder.

    Reads the `sample_id` column of each shard and then only the row groups that hold a wanted sample.
    """
    wanted = set(sample_ids)
    found: dict[str, tuple[str, bytes | None]] = {}
    for path in sorted(folder.glob("*.parquet")) if wanted else []:
        with pq.ParquetFile(path) as file:
            for group in range(file.num_row_groups):
                found.update(_group_images(file, group, wanted))
        if len(found) == len(wanted):
            break
    return found


def _group_images(file: pq.ParquetFile, group: int, wanted: set[str]) -> dict[str, tuple[str, bytes | None]]:
    ids = file.read_row_group(group, columns=["sample_id"])["sample_id"].to_pylist()
    rows = [row for row, sample_id in enumerate(ids) if sample_id in wanted]
    if not rows:
        return {}
    table = file.read_row_group(group, columns=["prompt", "image"]).take(rows)
    images = [value and value["bytes"] for value in table["image"].to_pylist()]
    prompts = table["prompt"].to_pylist()
    return {ids[row]: (prompt, image) for row, prompt, image in zip(rows, prompts, images, strict=True)}
