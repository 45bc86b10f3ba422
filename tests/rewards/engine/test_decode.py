"""Shades of every mode and format against values that were written by hand, and damaged bytes of every decoder."""

from __future__ import annotations

import io
import struct
import sys
import threading
import time
from collections.abc import Mapping

import numpy as np
import pytest
from PIL import Image, ImageFile

from tests.rewards.engine.test_images import encoded
from tgo_pipeline.formats.limits import FILE_BYTES_PER_PIXEL, IMAGES, PIXEL_BYTES, ImageLimits
from tgo_pipeline.rewards.engine.decode import UnreadableImage, _read_heic, decode, header_size, to_rgb
from tgo_pipeline.rewards.engine.images import open_image

RAMP = [0, 1, 64, 127, 128, 200, 254, 255]


def tiff(values: np.ndarray, sample_format: int, *, photometric: int = 1, bits: int | None = None) -> bytes:
    """A grey TIFF of these values (H, W), header and directory written by hand; 1 unsigned, 2 signed, 3 float."""
    height, width = values.shape
    big = values.dtype.str[0] == ">"
    data = values.tobytes()
    entries = {
        256: width,
        257: height,
        258: bits or values.dtype.itemsize * 8,
        259: 1,
        262: photometric,
        273: 8,
        277: 1,
        278: height,
        279: len(data),
        339: sample_format,
    }
    order = ">" if big else "<"
    listed = b"".join(
        struct.pack(f"{order}HHI", tag, 4, 1) + struct.pack(f"{order}I", entries[tag])
        for tag in sorted(entries)
    )
    head = (b"MM" if big else b"II") + struct.pack(f"{order}HI", 42, 8 + len(data))
    return head + data + struct.pack(f"{order}H", len(entries)) + listed + bytes(4)


def shades(data: bytes) -> list[int]:
    """The first row of a grey image."""
    found = np.asarray(decode(data))
    assert (found == found[..., :1]).all()
    return found[0, :, 0].tolist()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("kind", "sample_format", "values", "expected"),
    [
        ("f4", 3, np.array(RAMP) / 255, RAMP),
        ("f4", 3, np.array([0, 0.5, 1]), [0, 128, 255]),
        ("f4", 3, np.array([-0.0019, 1.0019]), [0, 255]),
        ("i4", 2, np.array(RAMP), RAMP),
        ("i4", 2, np.array(RAMP) * 257, RAMP),
        ("u2", 1, np.array(RAMP) * 257, RAMP),
        ("u2", 1, np.array(RAMP), [0] * 7 + [0]),
        ("i2", 2, np.array(RAMP), RAMP),
        ("u1", 1, np.array(RAMP), RAMP),
    ],
)
def test_shades_of_tiff(
    order: str, kind: str, sample_format: int, values: np.ndarray, expected: list[int]
) -> None:
    data = tiff(np.tile(values, (3, 1)).astype(f"{order}{kind}"), sample_format)
    assert shades(data) == expected
    assert header_size(data) == (len(values), 3)


@pytest.mark.parametrize(("kind", "most"), [("<u1", 255), ("<u2", 65535)])
def test_white_may_be_zero(kind: str, most: int) -> None:
    values = (most - np.array([RAMP]) * (most // 255)).astype(kind)
    assert shades(tiff(values, 1, photometric=0)) == RAMP


def test_twelve_bits_are_parts_of_4095() -> None:
    packed = bytes([0x00, 0x0F, 0xFF, 0x80, 0x07, 0xFF])  # 0x000, 0xfff, 0x800, 0x7ff
    data = tiff(np.frombuffer(packed, np.uint8)[None], 1, bits=12)
    width = data.replace(struct.pack("<HHII", 256, 4, 1, 6), struct.pack("<HHII", 256, 4, 1, 4))
    assert shades(width) == [0, 255, 128, 127]


@pytest.mark.parametrize(
    ("values", "kind", "reason"),
    [
        ([0, float("nan")], "<f4", r"not finite numbers \(NaN or infinite\)"),
        ([0, float("inf")], "<f4", "not finite numbers"),
        ([0, 255], "<f4", r"floating-point numbers from 0 to 255: they must be from 0 to 1"),
        ([-1, 1], "<f4", "floating-point numbers from -1 to 1"),
        ([-1, 200], "<i4", r"integers from -1 to 200: they must be from 0 to 255, or from 0 to 65535"),
        ([0, 65536], "<i4", "integers from 0 to 65536"),
        ([-5, 200], "<i2", "integers from -5 to 200"),
    ],
)
def test_values_that_fit_no_rule_are_refused(values: list[float], kind: str, reason: str) -> None:
    array = np.array([values]).astype(kind)
    for data in (tiff(array, 3 if "f" in kind else 2),):
        with pytest.raises(UnreadableImage, match=reason):
            decode(data)
    if kind != "<i2":
        with pytest.raises(UnreadableImage, match=reason):
            to_rgb(Image.fromarray(array))


def test_portable_maps() -> None:
    ramp = np.array([RAMP])
    assert shades(b"P5 8 1 255\n" + ramp.astype("u1").tobytes()) == RAMP
    assert shades(b"P5 8 1 65535\n" + (ramp * 257).astype(">u2").tobytes()) == RAMP
    assert shades(b"P5 8 1 65535\n" + ramp.astype(">u2").tobytes()) == [0] * 8  # dark, not 8 bits
    assert shades(b"P2 3 1 1000\n0 500 1000\n") == [0, 128, 255]
    assert shades(b"Pf\n8 1\n-1.0\n" + (ramp / 255).astype("<f4").tobytes()) == RAMP
    assert shades(b"Pf\n8 1\n1.0\n" + (ramp / 255).astype(">f4").tobytes()) == RAMP
    found = np.asarray(decode(b"P6 2 1 255\n" + bytes([1, 2, 3, 4, 5, 6])))
    assert found.tolist() == [[[1, 2, 3], [4, 5, 6]]]


def test_what_datasets_stores_of_arrays() -> None:
    datasets = pytest.importorskip("datasets")
    ramp = np.tile(np.array(RAMP), (4, 1))
    arrays = [ramp.astype(kind) for kind in ("uint8", "int32", "int64", "int16")]
    arrays += [(ramp * 257).astype("uint16"), (ramp / 255).astype("float32"), ramp / 255]
    stored = datasets.Dataset.from_dict({"image": arrays}, datasets.Features({"image": datasets.Image()}))
    for row in stored.cast_column("image", datasets.Image(decode=False)):
        assert shades(row["image"]["bytes"]) == RAMP


COLOURS = np.array([[[250, 20, 30], [10, 240, 60], [30, 60, 245], [200, 200, 40]]], np.uint8)
ALPHA = np.array([[0, 85, 170, 255]], np.uint8)


def on_white(colours: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    share = alpha[..., None] / 255
    return colours * share + 255 * (1 - share)


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP", "TGA", "JPEG2000", "ICO"])
def test_transparency_of_every_format_is_on_white(kind: str) -> None:
    pixels = np.concatenate([COLOURS, ALPHA[..., None]], -1)
    large = np.kron(pixels, np.ones((16, 4, 1), np.uint8))
    more = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = np.asarray(decode(encoded(Image.fromarray(large), format=kind, **more)))
    np.testing.assert_allclose(found, on_white(large[..., :3], large[..., 3]), atol=1)


def test_transparency_of_every_mode_is_on_white() -> None:
    grey = COLOURS[..., 0]
    expected = on_white(np.stack([grey] * 3, -1), ALPHA)
    la = Image.fromarray(np.stack([grey, ALPHA], -1))
    palette = Image.new("PA", (4, 1))
    palette.putpalette([shade for shade in range(256) for _ in range(3)])
    palette.putdata(list(zip(grey[0].tolist(), ALPHA[0].tolist(), strict=True)))
    for image in (la, decode_of(la, "PNG"), decode_of(la, "TIFF"), palette):
        np.testing.assert_allclose(np.asarray(to_rgb(image)), expected, atol=1)
    premultiplied = Image.fromarray(np.concatenate([COLOURS, ALPHA[..., None]], -1)).convert("RGBa")
    np.testing.assert_allclose(np.asarray(to_rgb(premultiplied)), on_white(COLOURS, ALPHA), atol=2)
    np.testing.assert_allclose(np.asarray(to_rgb(la.convert("La"))), expected, atol=2)


def decode_of(image: Image.Image, kind: str) -> Image.Image:
    return Image.open(io.BytesIO(encoded(image, format=kind)))


def test_a_transparent_shade_is_white() -> None:
    grey = Image.fromarray(np.array([[7, 9]], np.uint8))
    assert shades(encoded(grey, transparency=9)) == [7, 255]
    black_and_white = Image.fromarray(np.array([[0, 255]], np.uint8)).convert("1")
    assert shades(encoded(black_and_white, transparency=0)) == [255, 255]
    colours = Image.fromarray(np.array([[[1, 2, 3], [4, 5, 6]]], np.uint8))
    assert np.asarray(decode(encoded(colours, transparency=(1, 2, 3)))).tolist() == [[[255] * 3, [4, 5, 6]]]
    palette = Image.fromarray(np.array([[0, 1]], np.uint8), "P")
    palette.putpalette([10, 20, 30, 40, 50, 60])
    found = np.asarray(decode(encoded(palette, format="GIF", transparency=1)))
    assert found.tolist() == [[[10, 20, 30], [255, 255, 255]]]


def test_a_transparent_shade_of_sixteen_bits_is_white() -> None:
    image = Image.fromarray(np.array([[1000, 40000]], np.uint16))
    data = encoded(image)
    at = data.index(b"IDAT") - 4
    import zlib

    body = b"tRNS" + struct.pack(">H", 1000)
    chunk = struct.pack(">I", 2) + body + struct.pack(">I", zlib.crc32(body))
    assert shades(data[:at] + chunk + data[at:]) == [255, 40000 >> 8]


def test_palettes_and_bilevel_images() -> None:
    image = Image.fromarray(np.array([[0, 1, 2]], np.uint8), "P")
    image.putpalette([10, 20, 30, 40, 50, 60, 70, 80, 90])
    for kind in ("PNG", "GIF", "BMP", "TIFF"):
        found = np.asarray(decode(encoded(image, format=kind)))
        assert found.tolist() == [[[10, 20, 30], [40, 50, 60], [70, 80, 90]]]
    data = encoded(image, transparency=bytes([255, 0, 128]))
    assert np.asarray(decode(data))[0].tolist() == [[10, 20, 30], [255, 255, 255], [162, 167, 172]]
    for kind in ("PNG", "BMP", "TIFF", "PPM", "GIF"):
        assert shades(
            encoded(Image.fromarray(np.array([[0, 255, 0]], np.uint8)).convert("1"), format=kind)
        ) == [
            0,
            255,
            0,
        ]


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks(kind: str) -> None:
    """Cyan, magenta, yellow, black: light is what they leave. JPEG of Adobe stores them inverted."""
    inks = [[0, 255, 255, 0], [255, 0, 255, 0], [0, 0, 0, 128], [0, 0, 0, 0]]
    pixels = np.kron(np.array([inks], np.uint8), np.ones((16, 16, 1), np.uint8))
    more = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    found = np.asarray(decode(encoded(Image.fromarray(pixels, "CMYK"), format=kind, **more)))[8, 8::16]
    expected = [[255, 0, 0], [0, 255, 0], [127, 127, 127], [255, 255, 255]]
    np.testing.assert_allclose(found, expected, atol=3)


@pytest.mark.parametrize("kind", [None, "JPEG", "TIFF"])
def test_luma_and_chroma(kind: str | None) -> None:
    """Full-range BT.601, as JFIF has it."""
    colours = np.kron(COLOURS.astype(float), np.ones((16, 16, 1)))
    red, green, blue = np.moveaxis(colours, -1, 0)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = [128 + (blue - luma) * 0.5 / 0.886, 128 + (red - luma) * 0.5 / 0.701]
    pixels = np.rint(np.stack([luma, *chroma], -1)).clip(0, 255).astype(np.uint8)
    image = Image.fromarray(pixels, "YCbCr")
    more = {"quality": 100, "subsampling": 0} if kind == "JPEG" else {}
    found = np.asarray(to_rgb(image) if kind is None else decode(encoded(image, format=kind, **more)))
    np.testing.assert_allclose(found[8, 8::16], COLOURS[0], atol=4)


@pytest.mark.parametrize("stored", [False, True])
def test_cielab(stored: bool) -> None:
    """CIE 15: L*a*b* (D50) to XYZ, to linear sRGB by the Bradford-adapted matrix, to sRGB by IEC 61966-2-1."""
    values = np.array([[[0, 0, 0], [255, 0, 0], [128, 0, 0], [140, 40, 30], [150, 245, 240]]], np.uint8)
    image = Image.frombytes("LAB", (5, 1), values.tobytes())
    found = np.asarray(decode(encoded(image, format="TIFF")) if stored else to_rgb(image))
    light = values[..., 0].astype(float) * 100 / 255
    a, b = (values[..., channel].astype(np.int8).astype(float) for channel in (1, 2))  # signed, as in TIFF
    y = (light + 16) / 116
    ratios = np.stack([y + a / 500, y, y - b / 200], -1)
    xyz = np.where(ratios > 6 / 29, ratios**3, 3 * (6 / 29) ** 2 * (ratios - 4 / 29)) * [0.96422, 1, 0.82521]
    matrix = [
        [3.1338561, -1.6168667, -0.4906146],
        [-0.9787684, 1.9161415, 0.0334540],
        [0.0719453, -0.2289914, 1.4052427],
    ]
    linear = np.clip(xyz @ np.array(matrix).T, 0, 1)
    expected = 255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    np.testing.assert_allclose(found, expected, atol=3)


def test_hue_saturation_value_and_padding() -> None:
    hsv = Image.fromarray(np.array([[[0, 255, 255], [85, 255, 255], [0, 0, 128]]], np.uint8), "HSV")
    np.testing.assert_allclose(
        np.asarray(to_rgb(hsv))[0], [[255, 0, 0], [0, 255, 0], [128, 128, 128]], atol=1
    )
    padded = Image.fromarray(np.concatenate([COLOURS, ALPHA[..., None]], -1), "RGBX")
    for image in (padded, decode_of(padded, "TIFF")):
        assert np.asarray(to_rgb(image)).tolist() == COLOURS.tolist()


def test_large_images_in_strips_are_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(0)
    images = [
        Image.fromarray(generator.integers(0, 256, (37, 11, 4), dtype=np.uint8)),
        Image.fromarray(generator.random((37, 11), dtype=np.float32)),
        Image.fromarray(generator.integers(0, 65536, (37, 11), dtype=np.uint16)),
        Image.frombytes("LAB", (11, 37), generator.bytes(11 * 37 * 3)),
    ]
    clear = Image.fromarray(generator.integers(0, 4, (37, 11), dtype=np.uint8), "P")
    clear.info["transparency"] = 2
    whole = [np.asarray(to_rgb(image)) for image in (*images, clear)]
    monkeypatch.setattr("tgo_pipeline.rewards.engine.decode.STRIP_PIXELS", 60)
    for image, expected in zip((*images, clear), whole, strict=True):
        np.testing.assert_array_equal(np.asarray(to_rgb(image)), expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("turn", range(1, 9))
def test_the_size_of_a_header_is_that_of_the_image(kind: str, turn: int) -> None:
    exif = Image.Exif()
    exif[0x112] = turn
    data = encoded(Image.new("RGB", (64, 32), "red"), format=kind, exif=exif)
    assert header_size(data) == decode(data).size == ((32, 64) if turn > 4 else (64, 32))


FORMATS: Mapping[str, str] = {
    **dict.fromkeys(
        ["PNG", "JPEG", "TIFF", "WEBP", "BMP", "PPM", "TGA", "JPEG2000", "AVIF", "ICO", "DDS"], "RGB"
    ),
    **dict.fromkeys(["SGI", "IM", "PCX"], "RGB"),
    **dict.fromkeys(["GIF"], "P"),
}


@pytest.mark.parametrize("kind", FORMATS)
def test_damaged_bytes_are_unreadable_and_nothing_else(kind: str) -> None:
    """Cut anywhere, and with any byte changed: an image, or a reason."""
    generator = np.random.default_rng(1)
    pixels = generator.integers(0, 256, (24, 24, 3), dtype=np.uint8)
    data = encoded(Image.fromarray(pixels).convert(FORMATS[kind]), format=kind)
    damaged = [data[:cut] for cut in np.linspace(1, len(data) - 1, 40, dtype=int)]
    for _ in range(200):
        changed = bytearray(data)
        for place in generator.integers(0, min(len(data), 400), 3):
            changed[place] = generator.integers(0, 256)
        damaged.append(bytes(changed))
    reasons = 0
    for each in damaged:
        try:
            assert decode(each).mode == "RGB"
        except UnreadableImage as error:
            assert "\n" not in str(error)
            reasons += 1
        try:
            header_size(each)
        except UnreadableImage:
            pass
    assert reasons


def test_no_flipped_bit_of_a_png_changes_a_pixel() -> None:
    ramp = np.arange(48 * 48, dtype=np.uint16).reshape(48, 48)
    pixels = np.stack([ramp % 251, ramp // 9, ramp % 17 * 15], axis=-1).astype(np.uint8)
    data = encoded(Image.fromarray(pixels), compress_level=0)
    reasons = []
    for place in range(8, len(data) - 12, 37):  # between the signature and the last chunk
        flipped = bytearray(data)
        flipped[place] ^= 1 << place % 8
        try:
            assert (np.asarray(decode(bytes(flipped))) == pixels).all()
        except UnreadableImage as error:
            reasons.append(str(error))
    assert "its pixels are damaged: they do not fit their checksum (CRC)" in reasons


def test_half_an_image_is_refused_whatever_another_package_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    generator = np.random.default_rng(0)
    data = encoded(Image.fromarray(generator.integers(0, 256, (64, 64, 3), dtype=np.uint8)), format="JPEG")
    with pytest.raises(UnreadableImage, match="truncated"):
        decode(data[: len(data) // 2])


@pytest.mark.parametrize(
    "error",
    [struct.error, SyntaxError, OverflowError, RecursionError, MemoryError, NotImplementedError, IndexError],
)
def test_whatever_a_decoder_raises_is_a_reason(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = encoded(Image.new("RGB", (2, 2)))

    def fail(_: object) -> None:
        raise error("broken\nin two lines")

    monkeypatch.setattr("PIL.PngImagePlugin.PngImageFile.load", fail)
    with pytest.raises(UnreadableImage, match=rf"^{error.__name__}: broken in two lines$"):
        decode(data)


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> ImageLimits:
    """Limits that a test may change."""
    monkeypatch.setattr(IMAGES, "megapixels", IMAGES.megapixels)
    monkeypatch.setattr(IMAGES, "memory_gb", IMAGES.memory_gb)
    return IMAGES


def test_an_image_of_too_many_pixels_is_refused_before_it_is_decoded(limits: ImageLimits, tmp_path) -> None:
    data = encoded(Image.new("1", (12_000, 12_000)))
    started_s = time.monotonic()
    with pytest.raises(UnreadableImage, match=r"12000 x 12000 pixels are more than 89 million, the limit"):
        decode(data)
    assert time.monotonic() - started_s < 0.2
    limits.set(0.01, 4)
    small = Image.new("RGB", (101, 100))
    for image in (small, np.asarray(small), encoded(small)):
        with pytest.raises(UnreadableImage, match=r"101 x 100 pixels are more than 0\.01 million"):
            open_image(image)
    assert decode(encoded(Image.new("RGB", (100, 100)))).size == (100, 100)
    (tmp_path / "a.png").write_bytes(bytes(10_000 * FILE_BYTES_PER_PIXEL + 1))
    with pytest.raises(UnreadableImage, match=r"more than the 0\.1 MB that are read as a whole"):
        open_image(tmp_path / "a.png")


def test_an_image_that_pillow_takes_for_a_bomb_names_the_same_limit() -> None:
    rows = bytes(25_000 // 8) * 10_000
    data = b"P4 25000 10000\n" + rows
    for call in (decode, header_size):
        with pytest.raises(
            UnreadableImage, match=r"^250,000,000 pixels are more than 89 million, the limit \(run"
        ):
            call(data)


def test_a_limit_above_that_of_pillow_is_kept(limits: ImageLimits, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert decode(encoded(Image.new("RGB", (100, 100)))).size == (100, 100)
    assert limits.pixels == Image.MAX_IMAGE_PIXELS


def test_images_in_flight_stay_within_the_memory(limits: ImageLimits) -> None:
    limits.set(1, 2.5 * PIXEL_BYTES / 1e9)
    inside, most, lock = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal inside, most
        with limits.reserved(1):
            with lock:
                inside += 1
                most = max(most, inside)
            time.sleep(0.01)
            with lock:
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert (inside, most) == (0, 2)
    with limits.reserved(1000):  # one always fits
        pass


def test_postscript_is_not_run() -> None:
    stream = io.BytesIO()
    Image.new("RGB", (4, 4)).save(stream, "EPS")
    for call in (decode, header_size):
        with pytest.raises(UnreadableImage, match="PostScript"):
            call(stream.getvalue())


def test_heic_is_read_by_another_package_which_is_named_where_it_lacks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import pillow_heif

    pixels = np.full((64, 96, 3), (200, 40, 90), np.uint8)
    stream = io.BytesIO()
    pillow_heif.from_pillow(Image.fromarray(pixels)).save(stream, quality=95)
    data = stream.getvalue()
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    _read_heic.cache_clear()
    with pytest.raises(UnreadableImage, match=r"it is HEIC, .*pip install 'tgo-pipeline\[heic\]'"):
        decode(data)
    monkeypatch.undo()
    assert header_size(data) == (96, 64)
    assert np.abs(np.asarray(decode(data)).astype(int) - pixels).max() < 8
