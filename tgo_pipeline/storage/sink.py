"""A file that Arrow writes to, which says at its end what went wrong."""

from __future__ import annotations

import contextlib
from pathlib import Path
from types import TracebackType


class Sink:
    """A new file for a writer that must not see an error: the first one is raised by leaving the `with` block.

    Arrow ends the whole process (SIGABRT) when a write fails between two content-defined chunks, as on a full disk.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._size = 0
        self._error: OSError | None = None

    def __enter__(self) -> Sink:
        self._file = self._path.open("wb", buffering=0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._file.close()
        if self._error is not None and error is None:
            raise self._error

    def write(self, data: bytes | memoryview) -> int:
        """Write all of `data`, or nothing more once a write has failed."""
        left = memoryview(data).cast("B")
        self._size += len(left)
        try:
            while left and self._error is None:
                left = left[self._file.write(left) :]
        except OSError as error:
            self._error = error
        return memoryview(data).nbytes

    def tell(self) -> int:
        """Bytes that were given to `write`."""
        return self._size

    @property
    def closed(self) -> bool:
        """Whether the file is closed; the writer asks, and leaves the closing to the `with` block."""
        return self._file.closed

    def flush(self) -> None:
        """Nothing is held back."""

    def close(self) -> None:
        """For the writer, which closes what it was given: the `with` block does."""

    def writable(self) -> bool:
        """True: Arrow asks before it writes."""
        return True

    def readable(self) -> bool:
        """False."""
        return False

    def seekable(self) -> bool:
        """False: Parquet is written from front to back."""
        return False
