"""Short runs of the harnesses that disturb a running project, and that they fail when something is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.harness import harness

MEND_NOTHING = "from tgo_pipeline.storage import writing; writing._sweep_once = lambda folder: None"
"""Without its sweep, a half-written file of a killed run stays."""
VERIFY_NOTHING = "from tgo_pipeline.storage import digests; digests.verify = lambda path: None"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the unbroken run lies that all harnesses compare with."""
    return tmp_path_factory.mktemp("faults")


def test_kills(work: Path) -> None:
    code, found = harness(
        "kills", "--work", work / "runs", "--seed", 1, "--kills", 10, "--modes", "fork,points,score"
    )
    assert code == 0 and found["kills"] >= 10


def test_kills_see_a_file_that_is_not_written_whole(work: Path) -> None:
    options = ("--work", work / "runs", "--seed", 4, "--kills", 12, "--modes", "points", "--stop")
    code, found = harness("kills", *options, broken=MEND_NOTHING)
    assert code == 1 and found["findings"] >= 1


def test_disks(work: Path) -> None:
    parts = "limit,owner,locks,readonly,full"
    code, found = harness("disk", "--work", work / "runs", "--seed", 2, "--trials", 1, "--parts", parts)
    assert code == 0 and found["trials"] >= 2


def test_flips(work: Path) -> None:
    options = ("--done", work / "runs/truth", "--flips", 200, "--seed", 1)
    code, found = harness("flips", *options)
    assert code == 0 and found["refused"] == 200
    code, _ = harness("flips", *options, broken=VERIFY_NOTHING)
    assert code == 1, "without digests some flips are read"
