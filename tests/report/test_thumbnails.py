from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.report.workspace import HOSTILE, Workspace, draw
from tgo_pipeline.report.thumbnails import Album, Thumbnail, read_images
from tgo_pipeline.storage import tables


def _opened(thumbnail: Thumbnail) -> Image.Image:
    assert thumbnail.source is not None
    return Image.open(io.BytesIO(base64.b64decode(thumbnail.source.split(",")[1])))


def test_small_images_are_kept_pixel_for_pixel() -> None:
    data = draw("a small red circle on a white background", 0.5, 3, 32)
    thumbnail = Album().add(data)
    original = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(np.asarray(_opened(thumbnail).convert("RGB")), original)
    assert thumbnail.pixelated


@pytest.mark.parametrize("size", [65, 768, 1000])
def test_larger_images_become_thumbnails(size: int) -> None:
    thumbnail = Album().add(draw("a large blue square on a gray background", 1.0, 3, size))
    assert max(_opened(thumbnail).size) == thumbnail.side == min(size, 768)
    assert (thumbnail.width, thumbnail.height) == (size, size)
    assert not thumbnail.pixelated


def test_the_budget_bounds_the_bytes_and_says_so() -> None:
    album = Album(budget=6000)
    thumbnails = [album.add(draw("a red circle", 0.2, seed, 32)) for seed in range(5)]
    assert album.spent <= 6000
    assert 0 < album.shown < 5
    assert "limit" in thumbnails[-1].reason


def photograph(seed: int, width: int = 640, height: int = 427) -> bytes:
    """A JPEG with structure at every scale, as photographs have it."""
    rng = np.random.default_rng(seed)
    field = np.zeros((height, width, 3))
    for level in range(2, 9):
        coarse = rng.normal(0, 90 / level, (2**level, 2**level, 3))
        layers = [
            Image.fromarray(coarse[..., channel].astype(np.float32)).resize(
                (width, height), Image.Resampling.BICUBIC
            )
            for channel in range(3)
        ]
        field += np.stack([np.asarray(layer) for layer in layers], axis=-1)
    stream = io.BytesIO()
    Image.fromarray((128 + field).clip(0, 255).astype(np.uint8)).save(stream, "JPEG", quality=95)
    return stream.getvalue()


def test_a_photograph_stays_as_large_as_it_is_where_there_is_room() -> None:
    thumbnail = Album(images=60).add(photograph(0))
    assert _opened(thumbnail).size == (thumbnail.width, thumbnail.height) == (640, 427)


@pytest.mark.parametrize("images", [10, 40, 200])
def test_photographs_become_smaller_rather_than_fewer(images: int) -> None:
    album = Album(budget=600_000, images=images)
    thumbnails = [album.add(photograph(seed)) for seed in range(3)]
    sides = [thumbnail.side for thumbnail in thumbnails]
    assert (
        {10: 400, 40: 150, 200: 96}[images]
        <= min(sides)
        <= max(sides)
        <= {10: 640, 40: 400, 200: 200}[images]
    )
    sizes = [len(thumbnail.source or "") for thumbnail in thumbnails if thumbnail.side > 96]
    assert all(0 < size <= 600_000 // images + 30 for size in sizes)


def test_equal_images_are_counted_once() -> None:
    album, data = Album(), draw("a red circle", 0.2, 1, 32)
    assert album.add(data) == album.add(data)
    assert album.shown == 1


def test_broken_and_missing_bytes_leave_a_reason() -> None:
    album = Album()
    assert "truncated" in album.add(draw("a red circle", 0.2, 1, 32)[:80]).reason
    assert album.add(b"no image").source is None
    assert album.add(None).reason == "no image is stored"


def test_images_are_found_by_id_in_any_shard(workspace: Workspace) -> None:
    frame = tables.read_folder(workspace.sources.generations, ["sample_id", "prompt"])
    wanted = frame["sample_id"].to_list()[3::50]
    found = read_images(workspace.sources.generations, [*wanted, "absent"])
    assert set(found) == set(wanted)
    prompts = dict(frame.select("sample_id", "prompt").iter_rows())
    assert {key: value[0] for key, value in found.items()} == {key: prompts[key] for key in wanted}
    assert all(data and data.startswith(b"\x89PNG") for _, data in found.values())


def test_an_empty_folder_holds_no_image(tmp_path: Path) -> None:
    assert read_images(tmp_path, [HOSTILE]) == {}
