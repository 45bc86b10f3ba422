"""Shards keep order and keep the samples of a prompt together."""

from collections import Counter
from typing import NamedTuple

from hypothesis import given
from hypothesis import strategies as st

from tgo_pipeline.storage.chunks import chunks


class Sample(NamedTuple):
    prompt_id: str
    index: int


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 8))
def test_chunks(counts: list[int], size: int) -> None:
    rows = [Sample(str(prompt), index) for prompt, count in enumerate(counts) for index in range(count)]
    parts = chunks(rows, size)
    assert [row for part in parts for row in part] == rows
    assert all(0 < len(part) <= size for part in parts)
    spread = Counter(prompt for part in parts for prompt in {row.prompt_id for row in part})
    assert all(spread[str(prompt)] == -(-count // size) for prompt, count in enumerate(counts))
