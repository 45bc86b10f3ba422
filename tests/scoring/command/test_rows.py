"""A cursor reads every row once, wherever parts begin and end."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given
from hypothesis import strategies as st

from tgo_pipeline.images.base import Cursor, Row


class Sequence:
    """Rows `0` to `count`, and the positions at which they were opened."""

    def __init__(self, count: int) -> None:
        self.count = count
        self.opened: list[int] = []

    def open_at(self, start: int) -> Iterator[Row]:
        self.opened.append(start)
        return (Row(number, str(number), None, None) for number in range(start, self.count))


@given(count=st.integers(0, 20), size=st.integers(1, 7), ask=st.booleans())
def test_parts_one_after_another_are_read_in_one_go(count: int, size: int, ask: bool) -> None:
    sequence = Sequence(count)
    cursor = Cursor(sequence.open_at)
    found: list[str] = []
    for start in range(0, 21, size):
        if ask:
            assert cursor.at_end(start) == (start >= count)
        found += [row.image for row in cursor.take(start, start + size)]
    assert found == [str(number) for number in range(count)]
    assert sequence.opened[:1] == [0] and all(position >= count for position in sequence.opened[1:])


@given(count=st.integers(0, 20), places=st.lists(st.integers(0, 25), max_size=8))
def test_any_place_can_be_gone_to(count: int, places: list[int]) -> None:
    cursor = Cursor(Sequence(count).open_at)
    for place in places:
        rows = [row.image for row in cursor.take(place, place + 3)]
        assert rows == [str(number) for number in range(place, min(place + 3, count))]
        assert cursor.at_end(place + 3) == (place + 3 >= count)
