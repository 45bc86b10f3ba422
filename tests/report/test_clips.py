"""Clips in the report: previews that play inside the page, strips for paper, and bounded bytes."""

from __future__ import annotations

import base64
import functools
import io
import json
import re

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from tests.report.workspace import Workspace, write_workspace
from tgo_pipeline.formats.video_files import lossless, preview, read_frames
from tgo_pipeline.report.build import render
from tgo_pipeline.report.clips import ShownClip, playable, strip
from tgo_pipeline.report.thumbnails import Album, read_images
from tgo_pipeline.storage import tables
from tgo_pipeline.storage.workspace import Workspace as Places

FRAMES, SIDE = 5, 32
ISLAND = re.compile(r'<script type="application/json" id="gallery-data">(.*?)</script>', re.DOTALL)


def noise(seed: int, frames: int = FRAMES, side: int = SIDE) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (frames, side, side, 3), dtype=np.uint8)


@functools.cache
def encoded(seed: int) -> tuple[bytes, bytes | None]:
    return lossless(noise(seed), 8)[0], preview(noise(seed), 8)


def as_clip(row: dict, place: int) -> dict:
    """A row of images as one of clips, of which there are twelve."""
    name, (master, small) = row["sample_id"], encoded(place % 12)
    row = {**row, "video": {"bytes": master, "path": f"{name}.mp4"}, "frames": FRAMES, "fps": 8.0}
    return {**row, "preview": {"bytes": small, "path": f"{name}-preview.mp4"}}


def turn_into_clips(places: Places, damaged: int | None = None, bare: int | None = None) -> None:
    """Clips in place of all images of a run; one of training is `damaged`, and one without a preview."""
    folders = [places.generations, *(places.side(name) for name in ("base", "tuned", "early"))]
    for shard in (shard for folder in folders for shard in sorted(folder.glob("*.parquet"))):
        rows = [as_clip(row, place) for place, row in enumerate(tables.read_table(shard).to_pylist())]
        if "train" in shard.name and damaged is not None and bare is not None:
            rows[damaged] |= {"video": {"bytes": rows[damaged]["video"]["bytes"][:300]}, "preview": None}
            rows[bare] |= {"preview": None}
        table = pa.Table.from_pylist(rows, schema=tables.VIDEO_GENERATIONS)
        tables.write_table(table, shard, {"fingerprint": shard.name})


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """A finished run of clips, one of which is damaged and one of which has no preview."""
    made = write_workspace(tmp_path_factory.mktemp("clips"), train_prompts=4)
    turn_into_clips(made.sources, damaged=5, bare=6)
    return made


@pytest.fixture(scope="module")
def page(clips: Workspace) -> str:
    return render(clips.params, clips.sources)


def test_the_text_plays_previews_and_prints_strips(page: str) -> None:
    videos = re.findall(r'<video src="data:video/mp4;base64,([^"]+)"[^>]*>', page)
    assert len(videos) >= 2 * 12  # both sides of the pairs, and examples
    for attribute in ("muted", "playsinline", "controls"):
        assert len(re.findall(rf"<video [^>]*\b{attribute}\b", page)) == len(videos)
    frames, rate = read_frames(base64.b64decode(videos[0]))
    assert (frames.shape, rate) == ((FRAMES, SIDE, SIDE, 3), 8)
    strips = re.findall(r'<img src="data:image/webp;base64,[^"]+" alt="Frames[^>]* class="strip', page)
    assert len(strips) == len(videos)
    assert "media-src data:" in page and "Training clips by their target score" in page


def test_the_gallery_holds_the_stored_previews(page: str, clips: Workspace) -> None:
    found = ISLAND.search(page)
    assert found
    island = json.loads(found[1])
    shown = {
        (island["models"][model], sample): image
        for model, sample, image in zip(island["model"], island["id"], island["image"], strict=True)
    }
    tuned = tables.read_folder(clips.sources.side("tuned"), ["sample_id", "preview"])
    for sample, stored in tuned.iter_rows():
        assert base64.b64decode(shown["tuned", sample]) == stored["bytes"]
    assert island["moving"] == [image is not None for image in island["image"]]
    (reason,) = island["errors"]  # of the damaged one, from the table of scores
    assert reason == "OSError: image file is truncated"


def test_a_clip_without_a_preview_is_encoded_from_its_master(clips: Workspace) -> None:
    (shard,) = sorted(clips.sources.generations.glob("*.parquet"))
    damaged, bare = tables.read_table(shard, columns=["sample_id"])["sample_id"].to_pylist()[5:7]
    found = read_images(clips.sources.generations, [damaged, bare])
    album = Album()
    assert "decoded" in album.add(found[damaged][1]).reason or album.add(found[damaged][1]).source is None
    made = album.add(found[bare][1])
    assert made.moving and made.strip
    assert base64.b64decode((made.source or "").partition(",")[2]) == preview(noise(6), 8)


def test_a_large_preview_becomes_smaller_and_then_a_still() -> None:
    data = preview(noise(0, 17, 256), 16)
    assert data
    clip = ShownClip(data, True, 256, 256)
    assert playable(clip, 256, len(data)) == (data, 256)
    found = playable(clip, 256, len(data) // 3)
    assert found and len(found[0]) <= len(data) // 3 and 96 <= found[1] < 256
    assert max(read_frames(found[0])[0].shape[1:3]) in (found[1], found[1] - 1, found[1] + 1)
    assert playable(clip, 256, 1000) is None
    still = Album(budget=100_000, images=50).add(clip)
    assert still.source and not still.moving and still.source.startswith("data:image/webp")


def test_a_strip_has_frames_from_the_first_to_the_last() -> None:
    frames = np.stack([np.full((40, 60, 3), 25 * number, np.uint8) for number in range(9)])
    image = np.asarray(Image.open(io.BytesIO(strip(ShownClip(lossless(frames, 8)[0], False, 60, 40)))))
    assert image.shape == (40, 5 * 60, 3)
    assert np.allclose(image[20, 30::60].mean(-1), [0, 50, 100, 150, 200], atol=3)
