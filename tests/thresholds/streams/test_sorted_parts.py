"""Order statistics of parts against numpy on the whole, to the last bit."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgo_pipeline.thresholds.streams.sorted_parts import SortedParts
from tgo_pipeline.thresholds.targets import mid_ranks

NUMBERS = st.floats(-1e300, 1e300) | st.integers(-3, 3).map(float) | st.sampled_from([-0.0, 5e-324, -5e-324])
PARTS = st.lists(st.lists(NUMBERS, max_size=12), min_size=1, max_size=5).filter(any)


def of(parts: list[list[float]]) -> tuple[SortedParts, np.ndarray]:
    return SortedParts([np.sort(part) for part in parts]), np.sort(np.concatenate(parts))


@given(PARTS, st.lists(st.floats(0, 1), min_size=1, max_size=4))
def test_ranks_and_quantiles_are_those_of_all_numbers(parts: list[list[float]], shares: list[float]) -> None:
    found, whole = of(parts)
    assert (found.size, found.minimum, found.maximum) == (whole.size, whole[0], whole[-1])
    assert np.array_equal(found.at(np.arange(whole.size)), whole)
    assert np.array_equal(found.whole(), whole)
    with np.errstate(over="ignore", invalid="ignore"):
        assert found.quantiles(shares) == pytest.approx(
            np.quantile(whole, shares).tolist(), rel=0, abs=0, nan_ok=True
        )


@given(PARTS, st.lists(NUMBERS, min_size=2, max_size=6))
def test_counts_ranks_and_bars_are_those_of_all_numbers(
    parts: list[list[float]], points: list[float]
) -> None:
    found, whole = of(parts)
    edges = np.unique(points)
    for side in ("left", "right"):
        assert np.array_equal(found.counts(edges, side), whole.searchsorted(edges, side))  # type: ignore[arg-type]
    assert np.array_equal(found.mid_ranks(edges), mid_ranks(edges, whole))
    if edges.size > 1:
        assert np.array_equal(found.histogram(edges), np.histogram(whole, edges)[0])


def test_other_numbers_in_their_place_are_sorted() -> None:
    found, whole = of([[3.0, -1.0], [2.0]])
    assert found.mapped(np.abs).whole().tolist() == np.sort(np.abs(whole)).tolist()


SINGLE = st.floats(width=32, allow_nan=False, allow_infinity=False)


@given(st.lists(SINGLE, min_size=1, max_size=20), st.lists(NUMBERS | SINGLE, min_size=1, max_size=6))
def test_float32_numbers_are_counted_as_if_they_were_float64(
    numbers: list[float], points: list[float]
) -> None:
    single = np.sort(np.array(numbers, np.float32))
    found, whole = SortedParts([single]), single.astype(np.float64)
    for side in ("left", "right"):
        assert np.array_equal(found.counts(np.array(points), side), whole.searchsorted(points, side))  # type: ignore[arg-type]
    assert np.array_equal(found.at(np.arange(whole.size)), whole)
