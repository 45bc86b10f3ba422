"""Clips inside the page: previews of bounded size that browsers play, and strips of frames for paper."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass

from tgo_pipeline.formats.video_files import (
    PREVIEW_SIDE,
    UnreadableVideo,
    even,
    frame_size,
    preview,
    read_frames,
)

STRIP_FRAMES, STRIP_HEIGHT = 5, 96
"""Frames of a strip, evenly from the first to the last, and the pixels of its height at most."""
SMALLEST_SIDE = 96
"""A clip is not made smaller than this to fit into its share of the bytes: its middle frame is shown instead."""
MOST_BYTES = 250_000
"""Of one preview at most: five seconds of noise would otherwise take the place of twenty ordinary clips."""
QUALITY = 80  # of WebP, for a strip


@dataclass(frozen=True)
class ShownClip:
    """A clip that the page is to show: the bytes of its preview, or of its master where it has none.

    `width` and `height` are those of the master in pixels, 0 where the table does not say.
    """

    data: bytes
    is_preview: bool
    width: int
    height: int

    @property
    def preview_side(self) -> int:
        """The longer side of its preview."""
        return min(PREVIEW_SIDE, max(self.width, self.height))


def of_master(data: bytes) -> ShownClip:
    """A clip without a preview, by its file; without a size if that cannot be opened, and who decodes it says why."""
    try:
        return ShownClip(data, False, *frame_size(data))
    except UnreadableVideo:
        return ShownClip(data, False, 0, 0)


def playable(clip: ShownClip, side: int, most: int = MOST_BYTES) -> tuple[bytes, int] | None:
    """An mp4 of `most` bytes with no side above `side`, and its longer side; the stored preview where it is one.

    None where no such file can be made: without x264, or if even `SMALLEST_SIDE` takes more. Raises `UnreadableVideo`
    for a clip that has to be encoded again and cannot be read.
    """
    if clip.is_preview and clip.preview_side <= side and len(clip.data) <= most:
        return clip.data, clip.preview_side
    frames, fps = read_frames(clip.data)
    side = min(side, PREVIEW_SIDE, max(frames.shape[1:3]))
    while True:
        encoded = preview(frames, fps, side)
        if encoded is None:
            return None
        if len(encoded) <= most:
            return encoded, side
        if side <= SMALLEST_SIDE:
            return None
        # bytes grow slower than pixels; a step of a tenth at least, so that few encodings are tried
        side = max(SMALLEST_SIDE, int(side * min(0.9, math.sqrt(most / len(encoded)))))


def strip(clip: ShownClip) -> bytes:
    """Frames of a clip side by side, as WebP: what paper shows. Raises `UnreadableVideo`."""
    import numpy as np
    from PIL import Image

    frames, _ = read_frames(clip.data)
    chosen = [Image.fromarray(frame) for frame in frames[even(len(frames), STRIP_FRAMES)]]
    for frame in chosen:
        frame.thumbnail((2 * STRIP_HEIGHT, STRIP_HEIGHT))
    stream = io.BytesIO()
    Image.fromarray(np.hstack([np.asarray(frame) for frame in chosen])).save(stream, "WEBP", quality=QUALITY)
    return stream.getvalue()
