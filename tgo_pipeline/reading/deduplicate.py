"""Each image once: the first mention of a uid with a prompt."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from typing import Any


class Seen:
    """Which pairs of uid and prompt came before, in about 100 bytes each."""

    def __init__(self) -> None:
        self._keys: set[bytes] = set()

    def add(self, uid: str, prompt: str | None) -> bool:
        """Whether this is the first time."""
        key = hashlib.blake2b(f"{uid}\0{prompt}".encode(), digest_size=8).digest()
        is_new = key not in self._keys
        self._keys.add(key)
        return is_new


def first(rows: Iterable[Mapping[str, Any]]) -> Iterator[dict[str, Any]]:
    """The rows whose `image_uid` and `prompt` no earlier row had."""
    seen = Seen()
    return (dict(row) for row in rows if seen.add(row["image_uid"], row["prompt"]))
