"""The ratings file while it is written: each answer is on the disk before it is acknowledged."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Collection, Iterator
from pathlib import Path

from tgo_pipeline.errors import TgoError
from tgo_pipeline.feedback.ratings_file import (
    HEADER,
    Judgement,
    Undo,
    is_ratings_file,
    line,
    read_records,
    standing,
)
from tgo_pipeline.storage.disk import explanation
from tgo_pipeline.storage.locks import lock_path
from tgo_pipeline.storage.writing import sync

log = logging.getLogger("tgo")


class RatingStore:
    """The answers of a ratings file, and the file open at its end. Its methods may be called from several threads."""

    def __init__(self, path: Path, records: list[Judgement | Undo], descriptor: int) -> None:
        self.path = path
        self._descriptor = descriptor
        self._guard = threading.Lock()
        self._ids = {record.id for record in records}
        self._standing = {each.subject: each for each in standing(records)}

    @property
    def answers(self) -> list[Judgement]:
        """What stands, in the order in which it was said."""
        with self._guard:
            return list(self._standing.values())

    def add(self, judgement: Judgement) -> bool:
        """Append an answer and wait until it is on the disk; False for one that is there already.

        Raises `TgoError` if the disk refuses it; the file is then as it was.
        """
        with self._guard:
            if judgement.id in self._ids:
                return False
            self._append(line(judgement))
            self._ids.add(judgement.id)
            self._standing.pop(judgement.subject, None)  # the later answer comes last
            self._standing[judgement.subject] = judgement
            return True

    def undo(
        self, rater: str, kind: str, among: Collection[frozenset[str]], name: str, at: str
    ) -> Judgement | None:
        """Take back the last answer of a rater that stands, by a record `name`; None if there is none.

        `among` are the images, or pairs of them, that are asked about now.
        """
        with self._guard:
            theirs = [
                each
                for each in self._standing.values()
                if (each.rater, each.kind) == (rater, kind) and frozenset(each.images) in among
            ]
            if not theirs:
                return None
            last = theirs[-1]
            self._append(line(Undo(name, last.id, rater, at)))
            del self._standing[last.subject]
            return last

    def _append(self, data: bytes) -> None:
        end = os.fstat(self._descriptor).st_size
        try:
            left = memoryview(data)
            while left:
                left = left[os.write(self._descriptor, left) :]
            os.fsync(self._descriptor)
        except OSError as error:
            with contextlib.suppress(OSError):
                os.ftruncate(self._descriptor, end)
            raise explanation(error, self.path) or TgoError(f"{self.path}: {error}.") from error


@contextlib.contextmanager
def opened(path: Path) -> Iterator[RatingStore]:
    """The store of a ratings file, made if it is not there; what a killed process left half-written is cut off.

    Raises `TgoError` if another process writes to it, or if it is another kind of file.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with lock_path(path, leave_file=False):
            records = _mended(path)
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
            try:
                yield RatingStore(path, records, descriptor)
            finally:
                os.close(descriptor)
    except OSError as error:
        raise explanation(error, path) or TgoError(f"{path} cannot be written: {error}.") from error


def append_all(path: Path, judgements: Collection[Judgement]) -> int:
    """Append answers that are not in the file yet; how many there were. Raises what `opened` and `add` raise."""
    with opened(path) as store:
        return sum(map(store.add, judgements))


def _mended(path: Path) -> list[Judgement | Undo]:
    """The records of a file that ends with a whole line afterwards."""
    if not path.exists() or not path.stat().st_size:
        _begin(path)
        return []
    if not is_ratings_file(str(path)):
        raise TgoError(
            f"{path} is there and no file of ratings of this program: name another one (--to FILE.jsonl), or move it "
            "away."
        )
    records, taken = read_records(path)
    with path.open("r+b") as stream:
        size = stream.seek(0, os.SEEK_END)
        if size > taken:
            log.warning(
                "%s: its last line was not written to its end (%d bytes); it is cut off", path, size - taken
            )
            stream.truncate(taken)
        stream.seek(-1, os.SEEK_END)
        if stream.read(1) != b"\n":
            stream.write(b"\n")
        stream.flush()
        os.fsync(stream.fileno())
    return records


def _begin(path: Path) -> None:
    if path.suffix.lower() != ".jsonl":
        raise TgoError(f"{path} is to hold ratings: give it a name that ends in .jsonl.")
    with path.open("wb") as stream:
        stream.write(line(dict(HEADER)))
        stream.flush()
        os.fsync(stream.fileno())
    sync(path.parent)
