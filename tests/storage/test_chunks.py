"""Shards keep order and keep the samples of a prompt together."""

import itertools
from collections import Counter
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.chunks import chunks, require_few


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


def test_more_than_a_folder_can_have_is_refused_before_it_is_made() -> None:
    with pytest.raises(TgoError, match="images_per_prompt is 100,000,000 with 4 prompts"):
        require_few(4, 100_000_000)
    require_few(4, 2_500_000)
    with pytest.raises(TgoError, match="which makes more than 99,999 shards"):
        chunks((Sample(str(number), 0) for number in itertools.count()), 1)
