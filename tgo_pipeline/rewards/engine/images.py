"""Whatever holds an image to RGB, once for all rewards."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.files import read_bytes
from tgo_pipeline.formats.limits import IMAGES
from tgo_pipeline.formats.parquet_values import StoredValue
from tgo_pipeline.formats.remote import Remote
from tgo_pipeline.formats.video_files import UnreadableVideo, read_frames
from tgo_pipeline.rewards.engine.decode import UnreadableImage, decoded, to_rgb

if TYPE_CHECKING:
    from torch import Tensor

    from tgo_pipeline.rewards.vision_language.clips import Clip

    Stored = str | os.PathLike[str] | StoredValue | Remote | bytes | None


class StoredClip(NamedTuple):
    """A clip from a table: `content` is its file, or where that lies."""

    content: Stored


if TYPE_CHECKING:
    ImageInput = Image.Image | Stored | np.ndarray | Tensor | StoredClip
else:
    ImageInput = Any
_ADDRESSES = (str, os.PathLike, StoredValue, Remote)


def check_input(image: ImageInput, row: int) -> None:
    """Raise `TgoError` if the `row`-th image given is of a kind that holds no image."""
    if image is None or isinstance(image, (Image.Image, bytes, StoredClip, *_ADDRESSES)):
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
    with opened(image) as found:
        return found


@contextlib.contextmanager
def opened(image: ImageInput) -> Iterator[Image.Image]:
    """As `open_image`; until the end of the block it counts as memory in flight."""
    if image is None or isinstance(image, (bytes, *_ADDRESSES)):
        with decoded(read_content(image)) as found:
            yield found
    elif isinstance(image, StoredClip):
        raise UnreadableImage("it is a clip")
    else:
        yield to_rgb(image if isinstance(image, Image.Image) else _from_pixels(image))


@contextlib.contextmanager
def opened_clip(clip: StoredClip) -> Iterator[Clip]:
    """All of a clip's frames; until the end of the block they count as memory in flight.

    Raises `UnreadableImage` with the reason.
    """
    from tgo_pipeline.rewards.vision_language.clips import Clip

    try:
        frames, rate = read_frames(read_content(clip.content))
    except UnreadableVideo as error:
        raise UnreadableImage(str(error)) from error
    with IMAGES.reserved(frames[..., 0].size):
        yield Clip(frames, rate)


def read_content(image: Stored) -> bytes | None:
    """The bytes of an image from where it lies. Raises `UnreadableImage` with the reason if they cannot be had."""
    if image is None or isinstance(image, bytes):
        return image
    if isinstance(image, StoredValue):
        return image.read()
    if isinstance(image, Remote):
        try:
            return image.read()
        except OSError as error:
            raise UnreadableImage(f"it cannot be fetched ({error.strerror})") from error
    return read_file(image)


def read_file(path: str | os.PathLike[str]) -> bytes:
    """The bytes of an image file. Raises `UnreadableImage` for what is no file, or a larger one than any image."""
    try:
        return read_bytes(path, IMAGES.file_bytes)
    except OSError as error:
        raise UnreadableImage(f"the file cannot be read ({error.strerror})") from error
    except ValueError as error:  # a path with a NUL
        raise UnreadableImage(f"no path of a file ({error})") from error


def _from_pixels(pixels: np.ndarray | Tensor) -> Image.Image:
    array = np.asarray(pixels if isinstance(pixels, np.ndarray) else pixels.cpu().numpy())
    if array.ndim == 3 and not isinstance(pixels, np.ndarray):
        array = array.transpose(1, 2, 0)
    squeezed = array[..., 0] if array.ndim == 3 and array.shape[-1] == 1 else array
    return Image.fromarray(np.ascontiguousarray(squeezed))


def _is_tensor(image: object) -> bool:
    torch = sys.modules.get("torch")
    return torch is not None and isinstance(image, torch.Tensor)
