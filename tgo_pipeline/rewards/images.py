"""Decoding image bytes to RGB, once for all rewards."""

from __future__ import annotations

import contextlib
import io
import struct
import threading
import zlib
from collections.abc import Iterator

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError


class UnreadableImage(Exception):
    """The bytes are no picture that can be decoded; the message is the reason."""


_LOADING = (
    threading.Lock()
)  # PIL reads a file when a picture is first used, which two threads must not do at once

_DAMAGED = (
    *(OSError, SyntaxError, ValueError, RuntimeError, LookupError, ArithmeticError, EOFError, TypeError),
    *(struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow's decoders raise for damaged bytes: a single one must not end the scoring of a million."""


def decode(data: bytes | None) -> Image.Image:
    """Decode to RGB. Raises `UnreadableImage` with the reason if the bytes are missing, truncated or no picture."""
    if not data:
        raise UnreadableImage("no image bytes")
    with _reasons(), Image.open(io.BytesIO(data)) as image:
        return _to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB, turned as EXIF says; transparency is composited on white. Raises `UnreadableImage`."""
    with _reasons():
        with _LOADING:
            image.load()
        return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    if image.mode.startswith("I;16"):  # PIL would clip every value above 255
        image = Image.fromarray((np.asarray(image) >> 8).astype(np.uint8))
    if not image.has_transparency_data:
        return image.convert("RGB")
    layered = image.convert("RGBA")
    white = Image.new("RGBA", layered.size, "white")
    return Image.alpha_composite(white, layered).convert("RGB")


@contextlib.contextmanager
def _reasons() -> Iterator[None]:
    try:
        yield
    except UnidentifiedImageError as error:  # its message holds an address, which differs between runs
        raise UnreadableImage("not a known image format") from error
    except _DAMAGED as error:
        raise UnreadableImage(f"{type(error).__name__}: {error}") from error
