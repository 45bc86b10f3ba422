"""The one decoder of images: bytes in any format and mode to RGB, or the reason why not.

Whatever Pillow raises for damaged bytes becomes `UnreadableImage`, so that a single image never ends a run. Shades:

- 8 bits a channel are what they are; transparency is composited on white; EXIF turns the image
- 16 bits (`I;16`, portable maps) are parts of 65535, 12 bits parts of 4095
- 32-bit integers, as `datasets` stores arrays of integers: 0 to 255 if no value is larger, else parts of 65535
- floats, as `datasets` stores arrays of floats: from 0 to 1
- LAB by its CIE definition (D50), to sRGB

Values outside these rules, and NaN, are refused: no shade would be right.
"""

from __future__ import annotations

import contextlib
import functools
import io
import re
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image, ImageFile, ImageOps, UnidentifiedImageError

from tgo_pipeline.errors import in_one_line
from tgo_pipeline.formats.limits import IMAGES

if TYPE_CHECKING:
    from PIL import ImageCms

STRIP_PIXELS = 4_000_000
"""Pixels that are converted at a time, so that a large image has no further copies of itself."""
_LOADING = threading.Lock()
"""PIL reads a file, and its EXIF data, when they are first asked for: two threads must not do that at once."""
_TURNED = (5, 6, 7, 8)
"""EXIF orientations that exchange width and height."""
_EXIF_WORDS = (b"eXIf", b"tiff:Orientation", b"Raw profile type")
_PNG = b"\x89PNG\r\n\x1a\n"
_HEIC = re.compile(rb".{4}ftyp(?=.{0,64}(?:hei[cmsx]|hev[cmsx]))", re.DOTALL)
"""How a file begins that has HEVC among its brands; AVIF, in the same container, Pillow reads by itself."""
_BITS, _PHOTOMETRIC, _WHITE_IS_ZERO = 258, 262, 0  # two tags of TIFF, and a value of the second


class UnreadableImage(Exception):
    """The bytes are not an image that can be decoded; the message is the reason."""


def decode(data: bytes | None) -> Image.Image:
    """Decode to RGB. Raises `UnreadableImage` with the reason if the bytes are missing, truncated or no image."""
    with decoded(data) as image:
        return image


@contextlib.contextmanager
def decoded(data: bytes | None) -> Iterator[Image.Image]:
    """The image as RGB; until the end of the block it counts as memory in flight. Raises as `decode` does."""
    if not data:
        raise UnreadableImage("no image bytes")
    with contextlib.ExitStack() as held:
        with _reasons():
            image = held.enter_context(_open(data))
            if image.format == "PNG":
                _check_png(data)
        check_size(*image.size)
        held.enter_context(IMAGES.reserved(image.width * image.height))
        with _reasons():
            found = _to_rgb(image)
        del image
        yield found


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB, turned as EXIF says; transparency is composited on white. Raises `UnreadableImage`."""
    check_size(*image.size)
    with _reasons():
        with _LOADING:
            image.load()
            image.getexif().get(ExifTags.Base.Orientation)
        return _to_rgb(image)


def header_size(data: bytes) -> tuple[int, int]:
    """Width and height in pixels as `decode` gives them, from the header alone. Raises `UnreadableImage`."""
    with _reasons(), _open(data) as image:
        width, height = image.size
        return (height, width) if _orientation(image, data) in _TURNED else (width, height)


def check_size(width: int, height: int) -> None:
    """Raise `UnreadableImage` for an image that takes too much memory: a small file may hold a huge one."""
    if width * height > IMAGES.pixels:
        raise _too_large(f"{width} x {height}")


def _too_large(pixels: str) -> UnreadableImage:
    limit = "the limit (runtime.max_image_megapixels, or --max-image-megapixels)"
    return UnreadableImage(f"{pixels} pixels are more than {IMAGES.megapixels:g} million, {limit}")


def _open(data: bytes) -> Image.Image:
    if Image.MAX_IMAGE_PIXELS is not None and IMAGES.pixels > Image.MAX_IMAGE_PIXELS:
        Image.MAX_IMAGE_PIXELS = IMAGES.pixels  # else Pillow refuses what the user has allowed
    if _HEIC.match(data):
        _read_heic()
    # packages of this field switch it on for the whole process (hpsv2 does): half an image would be grey below
    ImageFile.LOAD_TRUNCATED_IMAGES = False
    image = Image.open(io.BytesIO(data))
    if image.format == "EPS":
        image.close()
        raise UnreadableImage("it is PostScript, which would be run as a program: save it as PNG or JPEG")
    return image


def _check_png(data: bytes) -> None:
    """Raise `UnreadableImage` where pixels are not those of their checksum, which Pillow passes over."""
    view, place = memoryview(data), len(_PNG)
    kind = b""
    while place + 12 <= len(data) and kind != b"IEND":  # each chunk: length, kind, content, checksum
        kind = view[place + 4 : place + 8]
        length = int.from_bytes(view[place : place + 4])
        end = place + 8 + length
        checksum = int.from_bytes(view[end : end + 4])
        if kind == b"IDAT" and end + 4 <= len(data) and zlib.crc32(view[place + 4 : end]) != checksum:
            raise UnreadableImage("its pixels are damaged: they do not fit their checksum (CRC)")
        place = end + 4


@functools.cache
def _read_heic() -> None:
    """Let Pillow read HEIC. Raises `UnreadableImage` without the package that can."""
    try:
        from pillow_heif import register_heif_opener
    except ImportError as error:
        raise UnreadableImage(
            "it is HEIC, which another package reads: pip install 'tgo-pipeline[heic]'"
        ) from error
    register_heif_opener()


def _orientation(image: Image.Image, data: bytes) -> int | None:
    if image.format == "TIFF":  # Pillow has turned it
        return None
    if image.format == "PNG" and not any(word in data for word in _EXIF_WORDS):
        return None  # Pillow would decode all of it to look behind its end
    return image.getexif().get(ExifTags.Base.Orientation)


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
    upright = ImageOps.exif_transpose(image) if turned else image  # which copies it in any case
    if upright.mode == "F" or upright.mode.startswith("I"):
        return _strips(upright, _shading(upright, image.format, getattr(image, "tag_v2", None) or {}))
    if upright.mode == "LAB":
        return _strips(upright, _from_lab)
    if not upright.has_transparency_data:
        return upright.convert("RGB")
    return _strips(upright, _on_white)


def _strips(image: Image.Image, convert: Callable[[Image.Image], Image.Image]) -> Image.Image:
    """An RGB image from one of another mode, some rows at a time."""
    rows = max(1, STRIP_PIXELS // max(1, image.width))
    if rows >= image.height:
        return convert(image)
    found = Image.new("RGB", image.size)
    for top in range(0, image.height, rows):
        part = image.crop((0, top, image.width, min(top + rows, image.height)))
        part.info = image.info
        found.paste(convert(part), (0, top))
    return found


def _on_white(image: Image.Image) -> Image.Image:
    layered = (image.convert("LA") if image.mode == "La" else image).convert("RGBA")
    white = Image.new("RGBA", layered.size, "white")
    return Image.alpha_composite(white, layered).convert("RGB")


def _from_lab(image: Image.Image) -> Image.Image:
    return _lab_to_srgb().apply(image)


@functools.cache
def _lab_to_srgb() -> ImageCms.ImageCmsTransform:
    from PIL import ImageCms

    lab, srgb = ImageCms.createProfile("LAB"), ImageCms.createProfile("sRGB")
    return ImageCms.buildTransform(lab, srgb, "LAB", "RGB")  # type: ignore[arg-type]


def _shading(
    image: Image.Image, kind: str | None, tags: Mapping[int, Any]
) -> Callable[[Image.Image], Image.Image]:
    """How values of more than 8 bits become shades; `kind` is the format, `tags` are those of TIFF.

    Raises `UnreadableImage` where the values do not fit the rules.
    """
    low, high = _extrema(image)
    most: int = 1 if image.mode == "F" else _white(image.mode, kind, tags, high)
    spare = 0.5 / 255 if image.mode == "F" else 0  # what rounds to a shade
    if not (-spare <= low and high <= most + spare):
        numbers, rule = _RULES[image.mode[0]]
        raise UnreadableImage(f"its values are {numbers} from {low:g} to {high:g}: they must be {rule}")
    inverted, clear = tags.get(_PHOTOMETRIC) == _WHITE_IS_ZERO, image.info.get("transparency")

    def shaded(part: Image.Image) -> Image.Image:
        """A part of the image as RGB, by the rule of the whole."""
        values = np.asarray(part)
        shades = _shades(most - values if inverted else values, most)
        if isinstance(clear, int):
            shades[values == clear] = 255  # transparent is white
        return Image.fromarray(shades).convert("RGB")

    return shaded


_RULES = {
    "F": ("floating-point numbers", "from 0 to 1"),
    "I": ("integers", "from 0 to 255, or from 0 to 65535"),
}


def _white(mode: str, kind: str | None, tags: Mapping[int, Any], high: float) -> int:
    """What white is, of integers."""
    if mode.startswith("I;16"):
        return 4095 if tags.get(_BITS) == (12,) else 65535
    if kind in ("PNG", "PPM"):  # Pillow has scaled them
        return 65535
    return 255 if high <= 255 else 65535


def _shades(values: np.ndarray, most: int) -> np.ndarray:
    if values.dtype.kind == "f":
        return np.rint(values * np.float32(255)).clip(0, 255).astype(np.uint8)
    return (values >> (most.bit_length() - 8)).astype(np.uint8)


def _extrema(image: Image.Image) -> tuple[Any, Any]:
    """The smallest and the largest value. Raises `UnreadableImage` for NaN and infinities."""
    rows = max(1, STRIP_PIXELS // max(1, image.width))
    ends = []
    for top in range(0, image.height, rows):
        values = np.asarray(image.crop((0, top, image.width, min(top + rows, image.height))))
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise UnreadableImage("it has values that are not finite numbers (NaN or infinite)")
        ends += [values.min().item(), values.max().item()]
    return min(ends), max(ends)


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    """Turn whatever a decoder raises into `UnreadableImage`; wrap calls of Pillow and numpy alone in it.

    Each format has a decoder of its own, and damaged bytes reach all of it: `struct.error`, `SyntaxError`,
    `NotImplementedError`, `OverflowError`, `RecursionError`, `MemoryError`. A list of them would never be complete.
    """
    try:
        yield
    except UnreadableImage:
        raise
    except UnidentifiedImageError as error:  # its message holds an address, which differs between runs
        raise UnreadableImage("not a known image format") from error
    except Image.DecompressionBombError as error:  # "Image size (200000000 pixels) exceeds limit of …"
        found = re.search(r"\d+", str(error))
        raise _too_large(f"{int(found[0]):,}" if found else "its") from error
    except Exception as error:
        raise UnreadableImage(f"{type(error).__name__}: {in_one_line(error)}") from error
