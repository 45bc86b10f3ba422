"""What earlier calls scored: parts as a whole, and single rows of parts that have changed since.

A row is known by its key. When one image or prompt of a part changes, the other rows of that part keep their keys, and
so their scores: they are copied, not computed again. A network that sees other rows beside them, or prompts of another
length, gives other last digits on some processors.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from tgo_pipeline.formats.parquet_values import StoredValue
from tgo_pipeline.formats.remote import Remote
from tgo_pipeline.images.base import Content, date
from tgo_pipeline.storage.fingerprints import fingerprint

UNKNOWN = 0
"""The key of a row that was scored before rows had keys."""
Keys = np.ndarray
"""uint64 (N,): one key for each row."""


def row_key(image: Content, prompt: str | None) -> int:
    """What a row's scores depend on besides the reward, in 64 bits: its image and its prompt.

    An image in a table counts by its bytes, so that it may move to another row; a file counts by its path, size and
    time of change, so that it need not be read, and one on the web by its address. Ask before the file is read: if it
    changes meanwhile, the next call sees that it did.
    """
    return int(fingerprint(image=_state(image), prompt=prompt), 16)


def _state(image: Content) -> Any:
    if isinstance(image, Remote):
        return image.url
    if isinstance(image, StoredValue):
        image = image.read()
    if isinstance(image, bytes):
        return hashlib.sha256(image).hexdigest()
    return None if image is None else [str(image), date(str(image))]


def as_keys(numbers: Sequence[int]) -> Keys:
    """Row keys as an array."""
    return np.array(numbers, dtype=np.uint64)


def pack(keys: Keys) -> str:
    """Row keys as text for a table's footer, 11 characters each."""
    return base64.b64encode(keys.astype("<u8").tobytes()).decode()


def unpack(text: str | None) -> Keys | None:
    """The row keys of a table's footer; None where an older version wrote it."""
    return None if text is None else np.frombuffer(base64.b64decode(text), dtype="<u8")


@dataclass(frozen=True)
class Found:
    """A part that was scored earlier: image, prompt, error and those reward columns that are still right.

    `rewards` says what each column is of; `keys` are those of the rows, None where an older version wrote them.
    """

    table: pa.Table
    rewards: dict[str, Any]
    last: bool
    keys: Keys | None = None


class ScoredRows:
    """The rows of tables by their keys. Of a row in several tables, each score is that of the first that has it."""

    def __init__(self, tables: Iterable[Found]) -> None:
        self.rewards: dict[str, Any] = {}
        """What the columns are of."""
        self._scores: dict[str, np.ndarray] = {}
        self._known: dict[str, np.ndarray] = {}
        self._errors: dict[int, str] = {}
        keyed = [(table, table.keys) for table in tables if table.keys is not None]
        every = np.unique(np.concatenate([as_keys([]), *(keys for _, keys in keyed)]))
        self._keys = every[every != UNKNOWN]
        for table, keys in keyed:
            self._add(table, keys)

    def __len__(self) -> int:
        return len(self._keys)

    def _add(self, found: Found, keys: Keys) -> None:
        rows = np.flatnonzero(keys != UNKNOWN)
        places = np.searchsorted(self._keys, keys[rows])
        for name, about in found.rewards.items():
            self.rewards.setdefault(name, about)
            scores = self._scores.setdefault(name, np.full(len(self), np.nan, dtype=np.float32))
            known = self._known.setdefault(name, np.zeros(len(self), dtype=bool))
            new = ~known[places]
            scores[places[new]] = found.table[name].to_numpy()[rows[new]]
            known[places] = True
        for place, reason in zip(places.tolist(), found.table["error"].take(rows).to_pylist(), strict=True):
            if reason:
                self._errors[place] = join_reasons(self._errors.get(place), reason) or reason

    def _places(self, keys: Keys) -> tuple[np.ndarray, np.ndarray]:
        """Where the keys are, and whether each is there at all."""
        places = np.minimum(np.searchsorted(self._keys, keys), max(0, len(self) - 1))
        return places, self._keys[places] == keys if len(self) else np.zeros(len(keys), dtype=bool)

    def know(self, keys: Keys, names: Iterable[str]) -> np.ndarray:
        """Whether each row, bool (N,), was scored with all of these rewards."""
        places, known = self._places(keys)
        for name in names if known.any() else ():
            known = known & (self._known[name][places] if name in self._known else False)
        return known

    def scores(self, keys: Keys, name: str) -> np.ndarray:
        """One column, float32 (N,): NaN where the row is not known, or could not be scored."""
        known, (places, _) = self.know(keys, [name]), self._places(keys)
        scores = np.full(len(keys), np.nan, dtype=np.float32)
        if known.any():
            scores[known] = self._scores[name][places[known]]
        return scores

    def errors(self, keys: Keys) -> list[str | None]:
        """Why each row, (N,), could not be scored; None where it could, or is not known."""
        places, known = self._places(keys)
        return [
            self._errors.get(place) if there else None
            for place, there in zip(places.tolist(), known, strict=True)
        ]


def join_reasons(*reasons: str | None) -> str | None:
    """Reasons of several rewards as one, each once: those of an image that cannot be read are the same."""
    return "; ".join(dict.fromkeys(reason for reason in reasons if reason)) or None
