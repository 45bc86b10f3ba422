"""Images and clips inside the page: re-encodings of what the shards hold, as large as a budget of bytes allows."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.formats.parquet_files import each
from tgo_pipeline.formats.video_files import UnreadableVideo, still
from tgo_pipeline.report import clips
from tgo_pipeline.report.clips import ShownClip
from tgo_pipeline.storage.paths import parquet_files
from tgo_pipeline.storage.tables import RERUN, open_parquet

if TYPE_CHECKING:
    import pyarrow.parquet as pq
    from PIL.Image import Image

LARGEST_SIDE = 768
"""Pixels of the longer side at most: the detail view is 512 wide, and a fine screen has more than one for each."""
SMALLEST_SIDE = 96
"""An image is not made smaller than this to fit into its share of the bytes: some are left out instead, since on
smaller ones nobody sees what a reward saw."""
LOSSLESS_SIDE = 64
"""Up to this side an original is enlarged on the page, where lossy compression would show."""
QUALITY = 85  # of WebP, whose artefacts are hardly seen there
BYTES_PER_PIXEL = 0.12
"""What a photograph takes at `QUALITY`, roughly: where the search for a side that fits begins."""
VIDEO = "data:video/mp4;base64,"
IMAGE = "data:image/webp;base64,"
BUDGET_BYTES = 12_000_000
"""What all images in the text may take of the page where no other limit is given."""


@dataclass(frozen=True)
class Thumbnail:
    """A thumbnail as a `data:` address with the size of the original, or the reason why there is none.

    `side` is the longer side of the thumbnail itself. A clip's address is one of a video; `strip`, where it is asked
    for, is that of an image of some of its frames.
    """

    source: str | None
    width: int = 0
    height: int = 0
    reason: str = ""
    side: int = 0
    strip: str | None = None

    @property
    def moving(self) -> bool:
        """Whether it is a clip that plays."""
        return self.source is not None and self.source.startswith(VIDEO)

    @property
    def pixelated(self) -> bool:
        """Whether the original is so small that enlarging it must show its pixels."""
        return 0 < max(self.width, self.height) <= LOSSLESS_SIDE


def make_thumbnail(data: bytes | ShownClip | None, side: int, most: int | None = None) -> Thumbnail:
    """Decode and re-encode one image, in `most` bytes of the page; what cannot be decoded becomes a reason.

    A clip's stored preview is taken as it is where it is small enough: it is never cut to an equal share of the page.
    """
    if isinstance(data, ShownClip):
        return _moving(data, side)
    return _still(data, side, most)


def _still(data: bytes | None, side: int, most: int | None) -> Thumbnail:
    from tgo_pipeline.rewards.engine.decode import UnreadableImage, decode

    if not data:
        return Thumbnail(None, reason="no image is stored")
    try:
        image = decode(data)
    except UnreadableImage as error:
        return Thumbnail(None, reason=str(error))
    small, encoded = thumbnail(image, side, None if most is None else max(0, most - 4) * 3 // 4)
    return Thumbnail(IMAGE + _text(encoded), *image.size, side=max(small.size))


def _moving(clip: ShownClip, side: int, most: int = clips.MOST_BYTES) -> Thumbnail:
    """A clip as one that plays in `most` bytes, or its middle frame where no preview is that small."""
    try:
        found = clips.playable(clip, side, most)
    except UnreadableVideo as error:
        return Thumbnail(None, reason=str(error))
    if found is None:
        return _still(still(clip.data), side, most)
    encoded, longer = found
    return Thumbnail(VIDEO + _text(encoded), clip.width, clip.height, side=longer)


def _text(encoded: bytes) -> str:
    return base64.b64encode(encoded).decode()


@dataclass
class Album:
    """Makes thumbnails until `budget` bytes of the page are spent; later images are left out and say so.

    Each of the `images` that are expected may take its share of the budget.
    """

    budget: int = BUDGET_BYTES
    images: int = 1
    spent: int = 0
    shown: int = 0
    side: int = 0
    _made: dict[bytes | ShownClip, Thumbnail] = field(default_factory=dict)

    def add(self, data: bytes | ShownClip | None) -> Thumbnail:
        """A thumbnail of one image, or the reason why there is none; equal images are counted once.

        One of a clip has a strip of frames besides.
        """
        if data in self._made:
            return self._made[data]
        made = self._make(data, self.budget // self.images)
        if data is None or made.source is None:
            return made
        taken = len(made.source) + len(made.strip or "")
        if self.spent + taken > self.budget:
            reason = "left out: the images of this page have reached their limit"
            return Thumbnail(None, made.width, made.height, reason)
        self.spent += taken
        self.shown += 1
        self.side = max(self.side, made.side)
        self._made[data] = made
        return made

    @staticmethod
    def _make(data: bytes | ShownClip | None, share: int) -> Thumbnail:
        if not isinstance(data, ShownClip):
            return make_thumbnail(data, LARGEST_SIDE, share)
        try:
            frames = IMAGE + _text(clips.strip(data))
        except UnreadableVideo as error:
            return Thumbnail(None, reason=str(error))
        made = _moving(data, LARGEST_SIDE, max(0, share - len(frames) - len(VIDEO)) * 3 // 4)
        return replace(made, strip=frames)


def thumbnail(image: Image, side: int, most: int | None = None) -> tuple[Image, bytes]:
    """An RGB image with no side above `side` pixels, and the same as WebP of `most` bytes where they are given.

    An image too large for them is made smaller, to `SMALLEST_SIDE` at least. What has at most 64 pixels a side stays
    lossless.
    """
    side = min(side, max(image.size))
    if most is not None and side > SMALLEST_SIDE:
        width, height = image.size
        share = math.sqrt(most / BYTES_PER_PIXEL / (width * height))
        side = max(SMALLEST_SIDE, min(side, int(share * max(width, height))))
    while True:
        small, encoded = _webp(image, side)
        if most is None or len(encoded) <= most or side <= SMALLEST_SIDE:
            return small, encoded
        # bytes grow a little slower than pixels, hence 5 % less than the rule of proportion says
        side = max(SMALLEST_SIDE, int(0.95 * side * math.sqrt(most / len(encoded))))


def _webp(image: Image, side: int) -> tuple[Image, bytes]:
    from PIL import Image

    stream = io.BytesIO()
    small = image.copy()
    small.thumbnail((side, side), Image.Resampling.LANCZOS)
    lossless = max(image.size) <= LOSSLESS_SIDE
    effort = (
        0 if lossless else QUALITY
    )  # without loss it is not quality but the time to spend: more saves nothing
    small.save(stream, "WEBP", quality=effort, method=4, lossless=lossless)
    return small, stream.getvalue()


def read_images(folder: Path, sample_ids: Iterable[str]) -> dict[str, tuple[str, bytes | ShownClip | None]]:
    """(prompt, image bytes or clip) of the wanted samples, from the generation shards of a folder."""
    found = stream_images(folder, sample_ids, ["prompt", "image"])
    return {row["sample_id"]: (row["prompt"], row["image"]) for row in found}


def stream_images(
    folder: Path, sample_ids: Iterable[str], columns: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """`sample_id` and some `columns` of the wanted samples in the order of the shards.

    `image` is bytes, a `ShownClip` from a table of clips, or None.

    Reads the `sample_id` column of each shard and then only the row groups that hold a wanted sample, one at a time.
    """
    wanted = set(sample_ids)
    for path in parquet_files(folder):
        if not wanted:
            return
        with open_parquet(path) as file:
            for group in range(file.num_row_groups):
                for row in each(_wanted_rows(file, group, wanted, columns), path, RERUN):
                    wanted.discard(row["sample_id"])
                    yield row


def _wanted_rows(
    file: pq.ParquetFile, group: int, wanted: set[str], columns: Sequence[str]
) -> Iterator[dict[str, Any]]:
    ids = file.read_row_group(group, columns=["sample_id"])["sample_id"].to_pylist()
    places = [place for place, sample_id in enumerate(ids) if sample_id in wanted]
    if not places:
        return
    if "image" in columns and "video" in file.schema_arrow.names:
        yield from _rows_of_clips(file, group, places, [name for name in columns if name != "image"])
        return
    for row in file.read_row_group(group, columns=["sample_id", *columns]).take(places).to_pylist():
        if "image" in row:
            row["image"] = row["image"] and row["image"]["bytes"]
        yield row


def _rows_of_clips(
    file: pq.ParquetFile, group: int, places: Sequence[int], columns: Sequence[str]
) -> Iterator[dict[str, Any]]:
    """Rows with `image` as a `ShownClip`; masters, which are large, are read only of clips without a preview."""
    names = ["sample_id", *columns, "preview", "width", "height"]
    for place, row in zip(
        places, file.read_row_group(group, columns=names).take(places).to_pylist(), strict=True
    ):
        size = row.pop("width") or 0, row.pop("height") or 0
        small = (row.pop("preview") or {}).get("bytes")
        data = small
        if data is None:
            (master,) = file.read_row_group(group, columns=["video"])["video"].take([place]).to_pylist()
            data = (master or {}).get("bytes")
        yield row | {"image": data and ShownClip(data, small is not None, *size)}
