"""A spreadsheet runs no cell of a csv, and numbers stay numbers."""

from __future__ import annotations

import csv
import io

import pytest

from tgo_pipeline.rendering.sheets import cell, written

FORMULAS = (
    "=1+1",
    "+1+1",
    "-2+3",
    "@SUM(1)",
    "\t=1",
    "\r=1",
    "|x",
    "-cmd",
    '"=1+1',
    "'=1+1",
    "+a",
    '=HYPERLINK("x")',
)
PLAIN = ("clip", "-1.5", "+3e-4", "1e5", "-", "-inf", "a=b", "", "é – τ", "12", "mean_z")


@pytest.mark.parametrize("text", FORMULAS)
def test_text_that_would_run_begins_with_an_apostrophe(text: str) -> None:
    shown = cell(text)
    assert shown.startswith("'") and shown.isprintable()


@pytest.mark.parametrize("text", PLAIN)
def test_other_text_stays(text: str) -> None:
    assert cell(text) == text


def test_numbers_stay_numbers_and_null_is_empty() -> None:
    text = written(["=a", "b"], [[-1.5, None], ["\x1b[31m=", True]])
    assert list(csv.reader(io.StringIO(text))) == [["'=a", "b"], ["-1.5", ""], ["⟨U+001B⟩[31m=", "True"]]
