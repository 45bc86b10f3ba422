"""Decoding: everything becomes RGB, and what cannot be decoded says why."""

from __future__ import annotations

import io
import struct
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.engine.decode import UnreadableImage, decode, to_rgb
from tgo_pipeline.rewards.engine.images import check_input, open_image


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
        (b"not an image", "not a known image format"),
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


def test_a_header_that_confuses_its_decoder_is_a_reason_too() -> None:
    data = bytearray(encoded(Image.new("F", (24, 31)), format="SPIDER"))
    data[26 * 4 : 27 * 4] = struct.pack("f", 1)  # says that it is the first of a stack, which is not there
    with pytest.raises(UnreadableImage, match="AttributeError"):
        decode(bytes(data))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_threads_that_share_an_image_turn_it_all(kind: str) -> None:
    """PIL reads the note to turn it when it is first asked, and meanwhile tells others that there is none."""
    exif = Image.Exif()
    exif[0x0112] = 6
    data = encoded(Image.new("RGB", (4, 2)), format=kind, exif=exif)
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            for _ in range(100):
                shared = Image.open(io.BytesIO(data))
                assert {image.size for image in pool.map(to_rgb, [shared] * 16)} == {(2, 4)}
    finally:
        sys.setswitchinterval(before)


def test_every_kind_of_input_is_the_same_image(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(pixels))
    (tmp_path / "a.png").write_bytes(data)
    inputs = [
        data,
        Image.fromarray(pixels),
        tmp_path / "a.png",
        str(tmp_path / "a.png"),
        pixels,
        np.asfortranarray(pixels),
        torch.from_numpy(pixels).permute(2, 0, 1),
    ]
    for row, one in enumerate(inputs):
        check_input(one, row)
        np.testing.assert_array_equal(np.asarray(open_image(one)), pixels)


@pytest.mark.parametrize("channels", [(), (1,), (4,)])
def test_pixels_may_be_grey_or_have_transparency(channels: tuple[int, ...]) -> None:
    pixels = np.full((4, 6, *channels), 100, dtype=np.uint8)
    pixels[..., -1:] = 100 if channels != (4,) else 0
    tensor = torch.from_numpy(pixels if not channels else pixels.transpose(2, 0, 1).copy())
    expected = 255 if channels == (4,) else 100
    for image in (pixels, tensor):
        check_input(image, 0)
        found = open_image(image)
        assert found.size == (6, 4)
        assert np.unique(np.asarray(found)).tolist() == [expected]


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (3.5, "image 7 is a float: give a PIL image"),
        ([1, 2], "image 7 is a list"),
        (np.zeros((4, 4, 3)), "ndarray of float64: pixels must be uint8.*score_tensor"),
        (torch.zeros(3, 4, 4), "Tensor of float32"),
        (torch.zeros(5, 4, 3, dtype=torch.uint8), r"shape \(5, 4, 3\).*tensors are \(3, height, width\)"),
        (np.zeros((3, 4, 4), np.uint8), None),
        (np.zeros((3, 4, 5), np.uint8), r"arrays are \(height, width, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), "is not an image"),
        (np.zeros(4, np.uint8), "is not an image"),
    ],
)
def test_what_holds_no_image_is_refused(image: object, message: str | None) -> None:
    if message is None:  # 4 channels could be transparency: an array is taken as (height, width, channels)
        check_input(image, 7)  # type: ignore[arg-type]
        return
    with pytest.raises(TgoError, match=message):
        check_input(image, 7)  # type: ignore[arg-type]


def test_a_path_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    for path, reason in (
        (tmp_path / "none.png", r"cannot be read \(No such file"),
        (tmp_path, r"cannot be read \(Is a directory"),
        ("a\0b.png", "null byte"),
    ):
        with pytest.raises(UnreadableImage, match=reason):
            open_image(path)


def test_sixteen_bits_of_a_portable_map_keep_their_brightness() -> None:
    data = b"P5 3 1 65535\n" + np.array([0, 32768, 65535], ">u2").tobytes()
    assert np.asarray(decode(data))[0, :, 0].tolist() == pytest.approx([0, 128, 255], abs=1)
