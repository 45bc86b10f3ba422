"""Clips as files: every level comes back, equal frames give equal bytes, damaged files give a reason."""

from __future__ import annotations

import io
import struct
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter

from tgo_pipeline.formats import video_files
from tgo_pipeline.formats.limits import IMAGES
from tgo_pipeline.formats.video_files import (
    UnreadableVideo,
    frame_size,
    lossless,
    preview,
    read_frames,
    still,
)
from tgo_pipeline.rewards.vision_language.clips import Clip, FrameSampling, read_clip

X264, FFV1 = video_files._LOSSLESS


def noise(frames: int = 5, height: int = 48, width: int = 64) -> np.ndarray:
    return np.random.default_rng(frames).integers(0, 256, (frames, height, width, 3), dtype=np.uint8)


def encoded(
    frames: np.ndarray, codec: Any, monkeypatch: pytest.MonkeyPatch, fps: float = 16
) -> tuple[bytes, str]:
    monkeypatch.setattr(video_files, "_LOSSLESS", (codec,))
    return lossless(frames, fps)


@pytest.mark.parametrize("codec", [X264, FFV1], ids=["x264", "ffv1"])
@pytest.mark.parametrize("shape", [(5, 48, 64), (1, 16, 16), (9, 34, 22)])
def test_every_level_comes_back(codec: Any, shape: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = noise(*shape)
    frames[0, 0, 0] = [0, 255, 1]
    data, suffix = encoded(frames, codec, monkeypatch)
    found, rate = read_frames(data)
    assert np.array_equal(found, frames) and found.dtype == np.uint8 and rate == 16
    assert suffix == {"libx264rgb": ".mp4", "ffv1": ".mkv"}[codec.name]
    assert encoded(frames, codec, monkeypatch) == (data, suffix)  # written twice


@pytest.mark.parametrize("fps", [16, 23.976, 12.5])
def test_the_rate_is_kept(fps: float) -> None:
    assert read_frames(lossless(noise(), fps)[0])[1] == pytest.approx(fps, rel=1e-4)


def test_a_preview_is_small_and_plays_anywhere() -> None:
    frames = np.repeat(np.repeat(noise(9, 24, 32), 20, axis=1), 20, axis=2)  # 480 x 640
    data = preview(frames, 16)
    assert data is not None and len(data) < len(lossless(frames, 16)[0]) / 3
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert (stream.codec_context.pix_fmt, stream.codec_context.name) == ("yuv420p", "h264")
        assert (stream.width, stream.height, stream.frames) == (256, 192, 9)
    assert preview(frames, 16) == data


def test_damaged_files_have_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    for codec, said in ((X264, "Invalid data"), (FFV1, r"only \d+ of its 17 frames can be decoded")):
        data, _ = encoded(noise(17), codec, monkeypatch)
        with pytest.raises(UnreadableVideo, match=said):
            read_frames(data[: len(data) // 2])
        assert still(data[: len(data) // 2]) is None
    data, _ = encoded(noise(17), X264, monkeypatch)
    with pytest.raises(UnreadableVideo, match=r"its frame \d+ is damaged"):
        read_frames(data[:2000] + b"\0" * 400 + data[2400:])
    with pytest.raises(UnreadableVideo, match="Invalid data"):
        read_frames(b"no clip")
    for empty in (None, b""):
        with pytest.raises(UnreadableVideo, match="no video bytes"):
            read_frames(empty)


def test_frames_larger_than_images_may_be_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    data, _ = lossless(noise(), 16)
    monkeypatch.setattr(IMAGES, "megapixels", 0.001)
    with pytest.raises(UnreadableVideo, match=r"64 x 48 are more than 0\.001 million pixels"):
        read_frames(data)


def test_a_still_is_the_middle_frame() -> None:
    frames = noise(5)
    data = still(lossless(frames, 16)[0])
    assert data is not None
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(data))), frames[2])


def test_a_preview_has_the_same_bytes_wherever_memory_lies() -> None:
    """x264's look ahead alone would not, with soft clips as small models draw them."""
    noise = gaussian_filter(np.random.default_rng(0).normal(size=(9, 32, 32, 3)), (1, 2, 2, 0))
    frames = (noise / noise.std() * 60 + 128).clip(0, 255).astype(np.uint8)
    held, found = [], set()
    for size in range(60):
        found.add(preview(frames, 8))
        held.append(bytes(1 + 17_011 * size))
    assert len(found) == 1


def turned(data: bytes, quarters: int) -> bytes:
    """An mp4 whose players turn it clockwise: the matrix of its track, as 16.16 and 2.30 fixed-point numbers."""
    one, last = 1 << 16, 1 << 30
    ways = [(one, 0, 0, one), (0, one, -one, 0), (-one, 0, 0, -one), (0, -one, one, 0)]
    plain, other = (
        struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, last) for a, b, c, d in (ways[0], ways[quarters])
    )
    place = data.index(plain, data.index(b"tkhd"))
    return data[:place] + other + data[place + len(plain) :]


@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_frames_are_turned_as_players_turn_them(quarters: int) -> None:
    frames = noise(5, 32, 48)
    data = turned(lossless(frames, 16)[0], quarters)
    shown = np.rot90(frames, -quarters, axes=(1, 2))
    assert np.array_equal(read_frames(data)[0], shown)
    assert frame_size(data) == (shown.shape[2], shown.shape[1])
    read = read_clip(data, FrameSampling(fps=16.0))
    from_memory = read_clip(Clip(np.ascontiguousarray(shown), rate=16), FrameSampling(fps=16.0))
    assert read.shape == from_memory.shape and (read == from_memory).all()
