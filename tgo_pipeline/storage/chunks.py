"""Cut a list of samples into shards."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Protocol, TypeVar


class HasPrompt(Protocol):
    @property
    def prompt_id(self) -> str: ...


R = TypeVar("R", bound=HasPrompt)


def chunks(rows: Iterable[R], size: int) -> list[list[R]]:
    """Lists of at most `size` rows in order; neighbours of one prompt stay together if they fit into one list."""
    result: list[list[R]] = []
    for _, group in itertools.groupby(rows, key=lambda row: row.prompt_id):
        run = list(group)
        if result and len(result[-1]) + len(run) <= size:
            result[-1].extend(run)
        else:
            result.extend(run[start : start + size] for start in range(0, len(run), size))
    return result
