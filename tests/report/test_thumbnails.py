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


def _opened(picture: Thumbnail) -> Image.Image:
    assert picture.source is not None
    return Image.open(io.BytesIO(base64.b64decode(picture.source.split(",")[1])))


def test_small_pictures_are_kept_pixel_for_pixel() -> None:
    data = draw("a small red circle on a white background", 0.5, 3, 32)
    picture = Album().add(data)
    original = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(np.asarray(_opened(picture).convert("RGB")), original)
    assert picture.pixelated


@pytest.mark.parametrize("size", [65, 256, 700])
def test_larger_pictures_become_thumbnails(size: int) -> None:
    picture = Album().add(draw("a large blue square on a gray background", 1.0, 3, size))
    assert max(_opened(picture).size) == min(size, 256)
    assert (picture.width, picture.height) == (size, size)
    assert not picture.pixelated


def test_the_budget_bounds_the_bytes_and_says_so() -> None:
    album = Album(budget=6000)
    pictures = [album.add(draw("a red circle", 0.2, seed, 32)) for seed in range(5)]
    assert album.spent <= 6000
    assert 0 < album.shown < 5
    assert "limit" in pictures[-1].reason


def test_equal_pictures_are_counted_once() -> None:
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
