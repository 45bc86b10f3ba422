"""How much of images may be in memory: the largest one, and all that are decoded at a time in a process.

Section `runtime` of params.yaml and `tgo score` set them; they change no number, only what is refused.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator

MEGAPIXELS = 89.0
"""From here on Pillow warns of a decompression bomb."""
MEMORY_GB = 4.0
"""Three images of 89 megapixels at a time, or hundreds of usual ones."""
PIXEL_BYTES = 12
"""A pixel while it is decoded: as the file has it and as RGB, 4 bytes each, and what turning and mixing take."""
FILE_BYTES_PER_PIXEL = 8
"""The largest file of an image of so many pixels: four channels of 16 bits, not compressed."""


class ImageLimits:
    """The limits of this process; one object, since all decoders share the memory."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._in_flight = 0
        self.set(MEGAPIXELS, MEMORY_GB)

    def set(self, megapixels: float, memory_gb: float) -> None:
        """Take new limits, in millions of pixels and gigabytes."""
        self.megapixels, self.memory_gb = megapixels, memory_gb

    @property
    def identity(self) -> dict[str, float]:
        """For fingerprints: which images are read at all, where that is not as usual."""
        return {} if self.megapixels == MEGAPIXELS else {"max_image_megapixels": self.megapixels}

    @property
    def pixels(self) -> int:
        """The largest image that is decoded."""
        return int(self.megapixels * 1e6)

    @property
    def file_bytes(self) -> int:
        """The largest file that is read as an image."""
        return self.pixels * FILE_BYTES_PER_PIXEL

    @contextlib.contextmanager
    def reserved(self, pixels: int) -> Iterator[None]:
        """Wait until an image of so many pixels fits beside those that are decoded now; a single one always does."""
        most = int(self.memory_gb * 1e9)
        needed = min(pixels * PIXEL_BYTES, most)
        with self._changed:
            self._changed.wait_for(lambda: self._in_flight + needed <= most or not self._in_flight)
            self._in_flight += needed
        try:
            yield
        finally:
            with self._changed:
                self._in_flight -= needed
                self._changed.notify_all()


IMAGES = ImageLimits()
