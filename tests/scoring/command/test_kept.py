"""Keys of rows, and tables of rows found by them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from tgo_pipeline.scoring.columns import score_table
from tgo_pipeline.scoring.command.kept import (
    UNKNOWN,
    Found,
    ScoredRows,
    as_keys,
    join_reasons,
    pack,
    row_key,
    unpack,
)

NAMES = ("a", "b")


def found(rows: dict[int, dict[str, float | None]], names: tuple[str, ...]) -> Found:
    """A table of rows by key with a score or None for each name, and a reason where there is none."""
    columns = {
        name: np.array([np.nan if row[name] is None else row[name] for row in rows.values()], np.float32)
        for name in names
    }
    errors = [join_reasons(*(f"no {name}" for name in names if row[name] is None)) for row in rows.values()]
    table = score_table({"image": list(map(str, rows)), "prompt": ["p"] * len(rows)}, columns, errors)
    return Found(table, {name: {"of": name} for name in names}, last=False, keys=as_keys(list(rows)))


ROWS = st.dictionaries(
    st.integers(1, 6),
    st.fixed_dictionaries({name: st.one_of(st.none(), st.integers(0, 99)) for name in NAMES}),
)
TABLE = st.tuples(ROWS, st.sampled_from([("a",), ("b",), NAMES]))


@settings(deadline=None)  # the first call imports what the others find loaded
@given(st.lists(TABLE, max_size=4))
def test_each_score_is_that_of_the_first_table_that_has_it(tables: list) -> None:
    scored = ScoredRows(found(*table) for table in tables)
    keys = as_keys(range(1, 8))
    for name in NAMES:
        expected = {}
        for rows, names in reversed(tables):
            if name in names:
                expected |= {key: row[name] for key, row in rows.items()}
        assert scored.know(keys, [name]).tolist() == [key in expected for key in range(1, 8)]
        wanted = [np.nan if expected.get(key) is None else expected[key] for key in range(1, 8)]
        np.testing.assert_array_equal(scored.scores(keys, name), np.array(wanted, np.float32))
    both = scored.know(keys, ["a"]) & scored.know(keys, ["b"])
    assert scored.know(keys, NAMES).tolist() == both.tolist()
    for key, error in zip(range(1, 8), scored.errors(keys), strict=True):
        reasons = {
            f"no {name}" for rows, names in tables if key in rows for name in names if rows[key][name] is None
        }
        assert set(error.split("; ") if error else ()) == reasons


def test_rows_without_keys_are_not_found() -> None:
    old = found({UNKNOWN: {"a": 1.0}, 5: {"a": 2.0}}, ("a",))
    assert len(ScoredRows([old])) == 1
    assert ScoredRows([old]).know(as_keys([UNKNOWN, 5]), ["a"]).tolist() == [False, True]
    nothing = ScoredRows([Found(old.table, old.rewards, last=False)])
    assert len(nothing) == 0
    assert nothing.know(as_keys([5]), ["a"]).tolist() == [False]
    assert np.isnan(nothing.scores(as_keys([5]), "a")).all() and nothing.errors(as_keys([5])) == [None]


@settings(deadline=None)  # the first call imports what the others find loaded
@given(st.lists(st.integers(0, 2**64 - 1)))
def test_keys_come_back_from_text(numbers: list[int]) -> None:
    back = unpack(pack(as_keys(numbers)))
    assert back is not None and back.tolist() == numbers
    assert unpack(None) is None


def test_a_key_is_of_the_image_and_its_prompt(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    path.write_bytes(b"one")
    os.utime(path, ns=(1, 1))
    key = row_key(path, "a fox")
    assert key == row_key(path, "a fox") != row_key(path, None) != row_key(path, "")
    os.utime(path, ns=(1, 2))
    assert row_key(path, "a fox") != key, "it was written again"
    (tmp_path / "b.png").write_bytes(b"one")
    os.utime(tmp_path / "b.png", ns=(1, 1))
    assert row_key(tmp_path / "b.png", "a fox") != key, "of files nothing but name, size and date is known"
    assert row_key(tmp_path / "gone.png", "a fox") != row_key(None, "a fox")
    assert row_key(b"one", "a fox") == row_key(b"one", "a fox") != row_key(b"two", "a fox")
