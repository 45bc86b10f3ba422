"""Cut a list of samples into shards."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Protocol, TypeVar

from tgo_pipeline.errors import TgoError

MOST_ROWS, MOST_SHARDS = 10_000_000, 99_999
"""Of one folder: a plan holds every row in memory and hashes it (250 bytes, 3 microseconds, in every process), and the
names of shards have five digits."""


class HasPrompt(Protocol):
    """A row that belongs to a prompt."""

    @property
    def prompt_id(self) -> str:
        """The id of the prompt."""
        ...


R = TypeVar("R", bound=HasPrompt)


def chunks(rows: Iterable[R], size: int) -> list[list[R]]:
    """Lists of at most `size` rows in order; neighbours of one prompt stay together if they fit into one list.

    Raises `TgoError` for more lists than a folder can have.
    """
    result: list[list[R]] = []
    for _, group in itertools.groupby(rows, key=lambda row: row.prompt_id):
        run = list(group)
        if result and len(result[-1]) + len(run) <= size:
            result[-1].extend(run)
        else:
            result.extend(run[start : start + size] for start in range(0, len(run), size))
        if len(result) > MOST_SHARDS:
            raise TgoError(
                f"generate.shard_size is {size:,}, which makes more than {MOST_SHARDS:,} shards: raise it."
            )
    return result


def require_few(prompts: int, images_per_prompt: int) -> None:
    """Raise `TgoError` for more rows than a folder can have, before any is made."""
    if prompts * images_per_prompt > MOST_ROWS:
        raise TgoError(
            f"images_per_prompt is {images_per_prompt:,} with {prompts:,} prompts, which makes more than {MOST_ROWS:,} "
            "images in one folder: lower it, or share the prompts out to several projects."
        )
