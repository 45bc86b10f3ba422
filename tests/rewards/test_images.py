"""Decoding: everything becomes RGB, and what cannot be decoded says why."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tgo_pipeline.rewards.images import UnreadableImage, decode, to_rgb


def encoded(image: Image.Image, **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, options.pop("format", "PNG"), **options)  # type: ignore[arg-type]
    return stream.getvalue()


def test_transparency_is_composited_on_white() -> None:
    pixels = np.zeros((1, 3, 4), dtype=np.uint8)
    pixels[0, :, 0] = 200  # red
    pixels[0, :, 3] = [0, 128, 255]
    found = np.asarray(decode(encoded(Image.fromarray(pixels, "RGBA"))))[0].astype(float)
    alpha = np.array([0, 128, 255])[:, None] / 255
    np.testing.assert_allclose(found, alpha * [200, 0, 0] + (1 - alpha) * 255, atol=1)


def test_a_transparent_palette_entry_is_white() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    found = np.asarray(decode(encoded(image, transparency=1)))
    assert found.tolist() == [[[10, 20, 30], [255, 255, 255]]]


@pytest.mark.parametrize("mode", ["L", "1", "CMYK", "P", "LA"])
def test_every_mode_becomes_rgb(mode: str) -> None:
    assert to_rgb(Image.new(mode, (3, 2))).mode == "RGB"


def test_sixteen_bit_grey_keeps_its_brightness() -> None:
    image = Image.fromarray(np.array([[0, 32768, 65535]], dtype=np.uint16))
    assert np.asarray(decode(encoded(image)))[0, :, 0].tolist() == pytest.approx([0, 128, 255], abs=1)


def test_a_turned_photograph_is_upright() -> None:
    image = Image.new("RGB", (4, 2))
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to see it right
    assert decode(encoded(image, format="JPEG", exif=exif)).size == (2, 4)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (None, "no image bytes"),
        (b"", "no image bytes"),
        (b"not a picture", "not a known image format"),
        (encoded(Image.effect_noise((64, 64), 50))[:1500], "OSError: "),
    ],
)
def test_unreadable_bytes_say_why_and_always_the_same(data: bytes | None, reason: str) -> None:
    messages = set()
    for _ in range(2):
        with pytest.raises(UnreadableImage, match=reason) as caught:
            decode(data)
        messages.add(str(caught.value))
    assert len(messages) == 1
    assert "0x" not in messages.pop()


@pytest.mark.filterwarnings("ignore::UserWarning")
@given(st.binary(max_size=400), st.sampled_from(["PNG", "JPEG", "GIF", "WEBP", "TIFF"]), st.integers(0, 4000))
@settings(max_examples=200, deadline=None)
def test_damage_never_raises_anything_else(noise: bytes, kind: str, start: int) -> None:
    whole = encoded(Image.effect_noise((16, 16), 60), format=kind)
    damaged = whole[: start % len(whole)] + noise
    try:
        assert decode(damaged).mode == "RGB"
    except UnreadableImage as error:
        assert str(error)
