"""Short runs of the harnesses, and that each of them fails when something is wrong.

Each runs in a process of its own: those that fork can only do so where no library has begun a thread.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.faults import fuzz_shards
from tests.project import ROOT, environment

MEND_NOTHING = "from tgo_pipeline.storage import writing; writing._sweep_once = lambda folder: None"
"""Without its sweep, a half-written file of a killed run stays."""
READ_NOTHING = """
def broken(*_): raise KeyError("broken")
from tests.faults import fuzz_params; fuzz_params.load_params = broken
"""
VERIFY_NOTHING = "from tgo_pipeline.storage import digests; digests.verify = lambda path: None"
LIMIT_S = 900


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the unbroken run lies that all harnesses compare with."""
    return tmp_path_factory.mktemp("faults")


def harness(name: str, *options: object, broken: str = "") -> tuple[int, dict[str, Any]]:
    """Run a harness, of a product that is `broken` first: its exit code, and the last line that it prints."""
    code = f"{broken}\nfrom tests.faults import {name}\nraise SystemExit({name}.main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, options)],
        cwd=ROOT,
        env=environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    lines = done.stdout.strip().splitlines() or ["{}"]
    print(done.stdout[-4000:], done.stderr[-4000:])
    return done.returncode, json.loads(lines[-1])


def test_kills(work: Path) -> None:
    code, found = harness(
        "kills", "--work", work / "runs", "--seed", 1, "--kills", 10, "--modes", "fork,points,score"
    )
    assert code == 0 and found["kills"] >= 10


def test_kills_see_a_file_that_is_not_written_whole(work: Path) -> None:
    options = ("--work", work / "runs", "--seed", 5, "--kills", 12, "--modes", "points", "--stop")
    code, found = harness("kills", *options, broken=MEND_NOTHING)
    assert code == 1 and found["findings"] >= 1


def test_disks(work: Path) -> None:
    parts = "limit,owner,locks,readonly,full"
    code, found = harness("disk", "--work", work / "runs", "--seed", 2, "--trials", 1, "--parts", parts)
    assert code == 0 and found["trials"] >= 2


def test_parameter_files() -> None:
    code, found = harness("fuzz_params", "--inputs", 200, "--deep", 0, "--seed", 3)
    assert code == 0 and found["inputs"] == 200


def test_an_error_that_is_none_of_the_input_is_found() -> None:
    code, found = harness("fuzz_params", "--inputs", 20, "--deep", 0, broken=READ_NOTHING)
    assert code == 1 and found["findings"] == 1


@pytest.mark.parametrize("group", fuzz_shards.GROUPS)
def test_inputs(group: str, work: Path) -> None:
    few = 200 if group == "images" else 8
    options = ("--work", work / "inputs", "--groups", group, "--inputs", few, "--seed", 4)
    code, found = harness("fuzz_shards", *options)
    assert code == 0 and found["inputs"][group] >= 8


def test_injections(work: Path) -> None:
    code, _ = harness("injection", "--work", work / "injection")
    assert code == 0


def test_flips(work: Path) -> None:
    options = ("--done", work / "runs/truth", "--flips", 200, "--seed", 1)
    code, found = harness("flips", *options)
    assert code == 0 and found["refused"] == 200
    code, _ = harness("flips", *options, broken=VERIFY_NOTHING)
    assert code == 1, "without digests some flips are read"
