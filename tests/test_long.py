"""The table of long tests names tests that exist."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.long import FAMILIES, is_long, is_longest, stale

ROOT = Path(__file__).parents[1]


def test_every_pattern_matches_a_test() -> None:
    assert stale(ROOT) == []


def test_a_pattern_without_a_test_is_seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "test_a.py").write_text("def test_one(): ...\n")
    monkeypatch.setattr(
        "tests.long.TESTS", ("test_a.py::test_one[[]x]", "test_a.py::*", "test_a.py::test_two*")
    )
    monkeypatch.setattr("tests.long.LONGEST", ("test_a.py::test_three",))
    assert stale(tmp_path) == ["test_a.py::test_two*", "test_a.py::test_three"]


def test_what_is_long() -> None:
    assert is_long("tests/test_kill.py::test_a_killed_score_stage_resumes")
    merge = "tests/generators/test_merge.py::test_any"
    assert is_long(f"{merge}[flux]")
    assert not is_long(f"{merge}[amused]")
    stars = "tests/test_star_ratings.py::test_any"
    assert is_long(stars) and is_longest(stars) and not is_longest(f"{merge}[flux]")
    assert {"sd", "amused"}.isdisjoint(FAMILIES)
