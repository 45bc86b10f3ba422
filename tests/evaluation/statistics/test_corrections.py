"""Corrected p-values against a worked table and against the definitions as loops."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.statistics.corrections import Correction, adjust

P = [0.01, 0.04, 0.03, 0.005, 0.5]
TABLE = {  # by hand: the ordered values times (5, 4, 3, 2, 1), and times 5 / (1, 2, 3, 4, 5)
    "holm": [0.04, 0.09, 0.09, 0.025, 0.5],
    "bh": [0.025, 0.05, 0.05, 0.025, 0.5],
    "none": P,
}
values = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@pytest.mark.parametrize("correction", list(TABLE))
def test_a_table_worked_by_hand(correction: Correction) -> None:
    assert adjust(np.array(P), correction) == pytest.approx(TABLE[correction], abs=1e-12)


@settings(deadline=None)
@given(values, st.floats(0.001, 0.999))
def test_holm_rejects_what_its_steps_reject(p_values: list[float], level: float) -> None:
    adjusted = adjust(np.array(p_values), "holm")
    rejected = set()
    for step, place in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if p_values[place] * (len(p_values) - step) > level:
            break
        rejected.add(place)
    assert set(np.flatnonzero(adjusted <= level)) == rejected


@settings(deadline=None)
@given(values, st.floats(0.001, 0.999))
def test_benjamini_hochberg_rejects_up_to_the_last_value_below_its_line(
    p_values: list[float], level: float
) -> None:
    adjusted = adjust(np.array(p_values), "bh")
    ordered = sorted(p_values)
    below = [k for k, p in enumerate(ordered, 1) if p * len(ordered) / k <= level]
    limit = ordered[max(below) - 1] if below else -1.0
    assert [bool(a <= level) for a in adjusted] == [p <= limit for p in p_values]


@settings(deadline=None)
@given(values)
def test_no_correction_makes_a_value_smaller_and_holm_is_the_stricter(p_values: list[float]) -> None:
    plain = np.array(p_values)
    holm, bh = adjust(plain, "holm"), adjust(plain, "bh")
    assert (plain <= bh + 1e-12).all() and (bh <= holm + 1e-12).all() and (holm <= 1).all()
    assert (np.diff(holm[np.argsort(plain, kind="stable")]) >= 0).all()


def test_no_comparison_is_no_member_of_the_family() -> None:
    adjusted = adjust(np.array([0.01, np.nan, 0.02]), "holm")
    assert adjusted[[0, 2]] == pytest.approx([0.02, 0.02]) and np.isnan(adjusted[1])


def test_what_is_no_probability_is_refused() -> None:
    with pytest.raises(TgoError, match="outside"):
        adjust(np.array([0.5, 1.5]), "bh")


@pytest.mark.parametrize("correction", list(TABLE))
def test_no_test_and_one_test_need_no_correction(correction: Correction) -> None:
    assert adjust(np.array([]), correction).tolist() == []
    assert np.isnan(adjust(np.array([np.nan]), correction)).all()
    assert [adjust(np.array([p]), correction).item() for p in (0.0, 0.03, 1.0)] == [0, 0.03, 1]


@pytest.mark.parametrize(
    "p_values", [[0.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.5, 0.5, 0.5], [0.0, 0.04, 1.0], P]
)
def test_benjamini_hochberg_is_scipys_down_to_zeros_ones_and_ties(p_values: list[float]) -> None:
    expected = stats.false_discovery_control(p_values, method="bh")
    assert adjust(np.array(p_values), "bh") == pytest.approx(expected, abs=1e-15)


def test_holm_of_zeros_ones_and_ties() -> None:
    assert adjust(np.array([0.0, 0.0]), "holm").tolist() == [0, 0]
    assert adjust(np.array([1.0, 0.6]), "holm").tolist() == [1, 1]
    assert adjust(np.array([0.02, 0.02, 0.02]), "holm") == pytest.approx([0.06] * 3)
