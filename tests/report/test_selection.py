from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgo_pipeline.report.gallery.selection import priority, ranked_units, spread_order


@given(st.integers(0, 3000))
def test_the_order_is_a_permutation_with_both_ends_first(n: int) -> None:
    order = spread_order(n)
    assert sorted(order.tolist()) == list(range(n))
    if n > 2:
        assert order[:2].tolist() == [n - 1, 0]


@given(st.integers(3, 3000), st.integers(2, 200))
def test_every_prefix_covers_the_ranks_evenly(n: int, kept: int) -> None:
    """No gap between kept ranks is wider than four times that of an even grid."""
    ranks = np.sort(spread_order(n)[:kept])
    assert np.diff(ranks).max() <= max(2, 4 * n / min(kept, n))


def test_groups_take_turns_by_the_square_root_of_their_sizes() -> None:
    groups = {"training": list(np.linspace(-1, 1, 10_000)), "test": list(np.linspace(0, 1, 100))}
    first = [name for name, _ in priority(groups)[:330]]
    assert first.count("training") == pytest.approx(300, abs=2)
    assert first.count("test") == pytest.approx(30, abs=2)


def test_a_group_begins_with_its_extremes_and_ends_with_what_has_no_value() -> None:
    order = priority({"one": [0.5, None, 3.0, -2.0, 1.0]})
    assert [place for _, place in order[:2]] == [2, 3]
    assert order[-1] == ("one", 1)


def test_what_all_models_made_of_a_sample_stays_together_and_failures_are_a_group() -> None:
    frame = pl.DataFrame(
        {
            "split": ["training"] * 4 + ["plain"] * 4,
            "sample_id": ["a", "b", "c", "d", "x", "y", "x", "y"],
            "error": [None, None, "broken", None, None, None, None, None],
            "score": [0.1, 0.9, None, 0.5, 1.0, 2.0, 4.0, 3.0],
        }
    )
    units = ranked_units(frame, "score")
    assert sorted(map(tuple, units)) == [(0,), (1,), (2,), (3,), (4, 6), (5, 7)]
    assert units.index([4, 6]) < units.index([5, 7])  # the last model's score is the larger one
    assert units.index([2]) < units.index([3])  # the one failure comes before the middle of the others
