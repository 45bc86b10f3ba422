"""Whatever holds an image to RGB, once for all rewards."""

from __future__ import annotations

import contextlib
import io
import os
import struct
import sys
import threading
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from tgo_pipeline.errors import TgoError

if TYPE_CHECKING:
    from torch import Tensor

    ImageInput = Image.Image | str | os.PathLike[str] | bytes | np.ndarray | Tensor | None
else:
    ImageInput = Any


class UnreadableImage(Exception):
    """The bytes are not an image that can be decoded; the message is the reason."""


_LOADING = threading.Lock()
"""PIL reads a file, and its EXIF data, when they are first asked for: two threads must not do that at once."""

_DAMAGED = (
    *(OSError, SyntaxError, ValueError, RuntimeError, LookupError, ArithmeticError, EOFError, TypeError),
    *(AttributeError, AssertionError, struct.error, zlib.error, Image.DecompressionBombError),
)
"""What Pillow's decoders raise for damaged bytes: a single one must not end the scoring of a million."""


def check_input(image: ImageInput, row: int) -> None:
    """Raise `TgoError` if the `row`-th image given is of a kind that holds no image."""
    if image is None or isinstance(image, (Image.Image, str, os.PathLike, bytes)):
        return
    kind = type(image).__name__
    array = isinstance(image, np.ndarray)
    if not array and not _is_tensor(image):
        raise TgoError(
            f"image {row} is a {kind}: give a PIL image, a path, bytes, or a uint8 array or tensor for each image."
        )
    shape, dtype = tuple(image.shape), str(image.dtype).removeprefix("torch.")
    if dtype != "uint8":
        raise TgoError(
            f"image {row} is a {kind} of {dtype}: pixels must be uint8, 0 to 255; for float images in [0, 1] and "
            "gradients use `score_tensor`."
        )
    if not (len(shape) == 2 or (len(shape) == 3 and shape[-1 if array else 0] in (1, 3, 4))) or 0 in shape:
        layout = "arrays are (height, width, 3)" if array else "tensors are (3, height, width)"
        raise TgoError(f"image {row} has shape {shape}, which is not an image: {layout}.")


def open_image(image: ImageInput) -> Image.Image:
    """Any input that `check_input` accepts, as RGB. Raises `UnreadableImage` with the reason."""
    if image is None or isinstance(image, bytes):
        return decode(image)
    if isinstance(image, Image.Image):
        return to_rgb(image)
    if isinstance(image, (str, os.PathLike)):
        return decode(_read(Path(image)))
    array = np.asarray(image if isinstance(image, np.ndarray) else image.cpu().numpy())  # type: ignore[union-attr]
    if array.ndim == 3 and not isinstance(image, np.ndarray):
        array = array.transpose(1, 2, 0)
    squeezed = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    return to_rgb(Image.fromarray(np.ascontiguousarray(squeezed)))


def _is_tensor(image: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(image, torch.Tensor)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UnreadableImage(f"the file cannot be read ({error.strerror})") from error
    except ValueError as error:  # a path with a NUL
        raise UnreadableImage(f"no path of a file ({error})") from error


def decode(data: bytes | None) -> Image.Image:
    """Decode to RGB. Raises `UnreadableImage` with the reason if the bytes are missing, truncated or no image."""
    if not data:
        raise UnreadableImage("no image bytes")
    with _reasons(), Image.open(io.BytesIO(data)) as image:
        return _to_rgb(image)


def to_rgb(image: Image.Image) -> Image.Image:
    """Convert to RGB, turned as EXIF says; transparency is composited on white. Raises `UnreadableImage`."""
    with _reasons():
        with _LOADING:
            image.load()
            image.getexif().get(ExifTags.Base.Orientation)
        return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    image = ImageOps.exif_transpose(image)
    # 16 bits, as PNG, TIFF and PGM have them: PIL would clip every value above 255.
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
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
