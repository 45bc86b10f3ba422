"""Columns of texts against lists of Python's."""

from __future__ import annotations

from unittest import mock

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fine_tune.data.texts import Texts

texts = st.lists(st.text(max_size=4), min_size=1, max_size=30)


@settings(max_examples=100, deadline=None)
@given(texts, st.booleans(), st.integers(0, 30))
def test_a_column_is_its_list(given: list[str], repeat: bool, cut: int) -> None:
    parts = [Texts(part, repeat=repeat) for part in (given[:cut], given[cut:])]
    column = Texts.joined(parts)
    assert list(column) == given and len(column) == len(given)
    assert [column[place] for place in range(-1, len(given))] == [given[-1], *given]
    assert list(column[1:]) == given[1:]
    assert b"".join(column.lines()) == "\n".join(given).encode()
    rows = np.arange(len(given))[::-2]
    assert list(column.take(rows)) == [given[row] for row in rows]
    distinct = sorted(set(given))
    assert column.numbers.tolist() == [distinct.index(text) for text in given]
    few = column.take(rows)  # of fewer distinct texts than the column that it is of
    assert few.numbers.tolist() == [sorted(set(few)).index(text) for text in few]


@settings(max_examples=100, deadline=None)
@given(texts, texts)
def test_places_and_order(given: list[str], others: list[str]) -> None:
    others = list(dict.fromkeys(others))
    column, among = Texts(given), Texts(others)
    expected = [others.index(text) if text in others else -1 for text in given]
    assert column.places_in(among).tolist() == expected
    assert [given[row] for row in column.order()] == sorted(given)
    in_order = column.take(column.order())
    twice = sorted(text for text in set(given) if given.count(text) > 1)
    assert in_order.repeated() == (twice[0] if twice else None)


def test_texts_with_one_hash_are_told_apart() -> None:
    column, among = Texts(["c", "a", "x", "b"]), Texts(["a", "b", "c"])
    with mock.patch.object(Texts, "_hashes", lambda self: np.zeros(len(self), np.uint64)):
        assert column.places_in(among).tolist() == [2, 0, -1, 1]
    assert column.places_in(Texts([])).tolist() == [-1] * 4


def test_pieces_are_joined_without_a_seam(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fine_tune.data.texts.ROWS_AT_ONCE", 3)
    given = [f"text {number}" for number in range(8)]
    assert b"".join(Texts(given).lines()) == "\n".join(given).encode() and list(Texts(given)) == given


def test_what_arrow_has_is_taken_as_it_is() -> None:
    column = Texts(pa.chunked_array([["a"], [None, "b"]]))
    assert column.missing == 1 and column[2] == "b"
