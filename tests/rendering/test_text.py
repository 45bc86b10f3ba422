from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tgo_pipeline.rendering import text


@given(
    st.recursive(st.text() | st.integers() | st.booleans(), lambda inner: st.dictionaries(st.text(), inner))
)
def test_script_json_keeps_the_value_and_holds_nothing_that_markup_could_use(value: object) -> None:
    written = text.script_json(value)
    assert json.loads(written) == value
    assert written.isascii()
    assert not set(written) & set("<>&")


def test_script_json_refuses_what_is_no_json() -> None:
    with pytest.raises(ValueError):
        text.script_json({"x": float("nan")})


@given(st.text(max_size=60))
def test_visible_text_stays_on_one_line_without_direction_or_control_characters(value: str) -> None:
    shown = text.visible(value)
    hidden = [
        chr(code)
        for code in (*range(0x20), 0x7F, 0x200E, 0x200F, *range(0x202A, 0x202F), *range(0x2066, 0x206A))
    ]
    assert not set(shown) & {*hidden, "\u2028", "\u2029"}


def test_visible_text_is_cut_with_its_length_and_keeps_joined_emoji() -> None:
    assert text.visible("ab" * 50, limit=10) == "ababababab … (100 characters)"
    assert text.visible("a\u202eb") == "a⟨U+202E⟩b"
    family = "👩\u200d👧"
    assert text.visible(family) == family


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.00"),
        (1234.5, "1234"),
        (-0.01234, "−0.0123"),
        (1.5e-7, "1.50e−07"),
        (None, "–"),
        (float("nan"), "–"),
    ],
)
def test_number(value: float | None, shown: str) -> None:
    assert text.number(value) == shown


def test_what_rounds_to_zero_keeps_its_sign_and_zero_has_none() -> None:
    assert (text.fixed(-0.0001), text.fixed(-0.0), text.fixed(0.0001)) == ("−0.00", "0.00", "0.00")
    assert (text.signed(-0.0001), text.signed(-0.0), text.signed(0.0001)) == ("−0.00", "0.00", "+0.00")
    assert (text.signed(-0.5), text.signed(None), text.signed(float("nan"))) == ("−0.50", "–", "–")


@pytest.mark.parametrize(
    ("spread", "digits"), [(0.012, 4), (0.7, 3), (1.0, 2), (2.5, 2), (250.0, 0), (0.0, 3)]
)
def test_decimals_show_a_hundredth_of_the_spread(spread: float, digits: int) -> None:
    assert text.decimals(spread) == digits


def test_percent_count_and_size() -> None:
    assert text.percent(0.123, 1) == "12.3\u202f%"
    assert text.percent(None) == "–"
    assert text.count(1234567) == "1\u202f234\u202f567"
    assert (text.size(2_340_000), text.size(12_300)) == ("2.3 MB", "12 kB")
