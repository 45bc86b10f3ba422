"""Clips as video files, by PyAV (the extra `video`): a master that gives back every level, and a small preview.

    data = lossless(frames, fps=16)     # frames: uint8 (T, H, W, 3)
    frames, fps = read_frames(data)     # the same, to the last level

Equal frames give equal bytes on one version of PyAV: one thread encodes, and nothing of the time is written.
"""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from tgo_pipeline.errors import TgoError, in_one_line
from tgo_pipeline.formats.limits import IMAGES

if TYPE_CHECKING:
    import numpy as np
    from av import VideoFrame
    from av.container import InputContainer
    from av.video.stream import VideoStream

PREVIEW_SIDE = 256
"""Pixels of a preview's longer side at most: some ten to a hundred kilobytes for five seconds."""
_NO_PROTOCOL = {"protocol_whitelist": "pipe"}
"""A playlist that calls itself a clip opens no further file and no address."""


class _Codec(NamedTuple):
    name: str
    container: str
    pixels: str
    options: dict[str, str]


_LOSSLESS = (
    _Codec("libx264rgb", "mp4", "rgb24", {"qp": "0", "preset": "fast"}),
    _Codec("ffv1", "matroska", "bgr0", {"level": "3"}),
)
"""The first that this PyAV can encode with. RGB throughout: a conversion to luma and chroma rounds."""
_PREVIEW = _Codec(
    "libx264",
    "mp4",
    "yuv420p",
    {"crf": "26", "preset": "fast", "movflags": "faststart", "x264-params": "cpu-independent=1"},
)
"""What browsers play. By default x264's look ahead gives other bytes from run to run, even in one process."""
SUFFIX = {"mp4": ".mp4", "matroska": ".mkv"}


class UnreadableVideo(Exception):
    """What is given is no clip that can be decoded; the message is the reason."""


def require_av() -> None:
    """Raise `TgoError` without PyAV."""
    try:
        import av  # noqa: F401
    except ImportError as error:
        raise TgoError("clips are read and written by PyAV: pip install 'tgo-pipeline[video]'") from error


def lossless(frames: np.ndarray, fps: float) -> tuple[bytes, str]:
    """A file that holds the frames exactly, and the suffix of its name. Frames are uint8 (T, H, W, 3)."""
    require_av()
    codec = next(codec for codec in _LOSSLESS if _can_encode(codec.name))  # FFmpeg always has the last one
    return _encoded(frames, fps, codec), SUFFIX[codec.container]


def preview(frames: np.ndarray, fps: float, side: int = PREVIEW_SIDE) -> bytes | None:
    """A small file for people and browsers, no side above `side` pixels; None where this PyAV has no x264."""
    require_av()
    if not _can_encode(_PREVIEW.name):
        return None
    return _encoded(_shrunk(frames, side), fps, _PREVIEW)


def read_frames(data: bytes | None) -> tuple[np.ndarray, float]:
    """All frames, uint8 (T, H, W, 3), and how many there are a second.

    Raises `UnreadableVideo` with the reason if the bytes are missing, damaged, or larger than images may be.
    """
    import numpy as np

    if not data:
        raise UnreadableVideo("no video bytes")
    require_av()
    try:
        with opened(data) as (container, stream):
            if stream.width * stream.height > IMAGES.pixels:
                raise UnreadableVideo(
                    f"frames of {stream.width} x {stream.height} are more than {IMAGES.megapixels:g} million pixels, "
                    "the limit (runtime.max_image_megapixels)"
                )
            expected, rate = _expected(container, stream), stream.average_rate
            frames = [pixels(frame, number) for number, frame in enumerate(container.decode(stream))]
    except UnreadableVideo:
        raise
    except Exception as error:  # damaged bytes reach every decoder of FFmpeg
        raise UnreadableVideo(f"{type(error).__name__}: {in_one_line(error)}") from error
    if not frames or not rate:
        raise UnreadableVideo("it has no frames")
    if len(frames) < expected:
        raise UnreadableVideo(f"only {len(frames)} of its {expected} frames can be decoded")
    return np.stack(frames), float(rate)


def frame_size(data: bytes) -> tuple[int, int]:
    """Width and height of the frames as players show them, by the first one. Raises `UnreadableVideo`."""
    require_av()
    try:
        with opened(data) as (container, stream):
            frame = next(container.decode(stream))
            return (frame.height, frame.width) if _quarters(frame) % 2 else (frame.width, frame.height)
    except UnreadableVideo:
        raise
    except Exception as error:  # damaged bytes reach every reader of FFmpeg
        raise UnreadableVideo(f"{type(error).__name__}: {in_one_line(error)}") from error


def _expected(container: InputContainer, stream: VideoStream) -> int:
    """How many frames the file says that it has; 0 if it does not. Matroska, in which FFV1 lies, has the time alone."""
    if stream.codec_context.name == "ffv1" and container.duration and stream.average_rate:
        return round(container.duration / 1e6 * stream.average_rate)
    return stream.frames


def pixels(frame: VideoFrame, number: int) -> np.ndarray:
    """A frame turned as players turn it: uint8 (H, W, 3). Raises `UnreadableVideo` if it is damaged."""
    import numpy as np

    require_whole(frame, number)
    return np.ascontiguousarray(np.rot90(frame.to_ndarray(format="rgb24"), _quarters(frame)))


def _quarters(frame: VideoFrame) -> int:
    """By how many quarters players turn a frame, counter-clockwise, as numpy does; phones write portraits that way."""
    return round(frame.rotation / 90)


def require_whole(frame: VideoFrame, number: int) -> None:
    """Raise `UnreadableVideo` for a frame that the decoder has filled with something like it."""
    if frame.is_corrupt:
        raise UnreadableVideo(f"its frame {number} is damaged")


def still(data: bytes | None) -> bytes | None:
    """The middle frame as PNG, for where one image stands for a clip; None if the clip cannot be read."""
    from PIL import Image

    try:
        frames, _ = read_frames(data)
    except UnreadableVideo:
        return None
    stream = io.BytesIO()
    Image.fromarray(frames[len(frames) // 2]).save(stream, "PNG")
    return stream.getvalue()


def even(total: int, count: int) -> np.ndarray:
    """The places of `count` frames of `total`, the first and the last among them; the middle one if it is one."""
    import numpy as np

    if count == 1:
        return np.array([total // 2])
    return np.linspace(0, total - 1, count).round().astype(int)


@contextlib.contextmanager
def opened(clip: str | os.PathLike[str] | bytes) -> Iterator[tuple[InputContainer, VideoStream]]:
    """The container and its first stream of images. A path is opened here: FFmpeg would take it for an address.

    Raises `UnreadableVideo` if there is no such file or it holds no images; FFmpeg's own errors are the caller's.
    """
    import av

    with contextlib.ExitStack() as held:
        file: Any = io.BytesIO(clip) if isinstance(clip, bytes) else held.enter_context(_file(clip))
        container: Any = held.enter_context(av.open(file, mode="r", options=_NO_PROTOCOL))
        if not container.streams.video:
            raise UnreadableVideo("it holds no images")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        yield container, stream


def _file(path: str | os.PathLike[str]) -> Any:
    try:
        if not Path(path).is_file():
            raise UnreadableVideo("there is no such file")
        return open(path, "rb")
    except (OSError, ValueError) as error:
        raise UnreadableVideo(f"the file cannot be read ({in_one_line(error)})") from error


def _can_encode(name: str) -> bool:
    from av.codec import Codec, codecs_available

    return name in codecs_available and Codec(name, "w").is_encoder


def _encoded(frames: np.ndarray, fps: float, codec: _Codec) -> bytes:
    import av

    file = io.BytesIO()
    with av.open(file, "w", format=codec.container, options={"fflags": "+bitexact"}) as container:
        stream: Any = container.add_stream(codec.name, rate=Fraction(fps).limit_denominator(1001))
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt, stream.options = codec.pixels, dict(codec.options)
        stream.codec_context.thread_count = 1  # several threads cut frames differently
        for pixels in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return file.getvalue()


def _shrunk(frames: np.ndarray, side: int) -> np.ndarray:
    """Frames with no side above `side`, and even sides, which the format of a preview asks for."""
    import numpy as np
    from PIL import Image

    height, width = frames.shape[1:3]
    share = min(1.0, side / max(height, width))
    width_2, height_2 = (max(2, round(length * share / 2) * 2) for length in (width, height))
    size = width_2, height_2
    if size == (width, height):
        return frames
    return np.stack([np.asarray(Image.fromarray(frame).resize(size)) for frame in frames])
