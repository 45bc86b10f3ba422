"""Short runs of the harnesses that give damaged and hostile input, and that they fail when something is wrong."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.faults import fuzz_shards
from tests.faults.harness import harness

READ_NOTHING = """
def broken(*_): raise KeyError("broken")
from tests.faults import fuzz_params; fuzz_params.load_params = broken
"""
READ_NO_WEIGHTS = """
def broken(*_): raise KeyError("broken")
from tgo_pipeline.hub import checkpoint; checkpoint.read_weights = broken
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the unbroken run lies that all harnesses compare with."""
    return tmp_path_factory.mktemp("faults")


def test_parameter_files() -> None:
    code, found = harness("fuzz_params", "--inputs", 200, "--deep", 0, "--seed", 3)
    assert code == 0 and found["inputs"] == 200


def test_an_error_that_is_none_of_the_input_is_found() -> None:
    code, found = harness("fuzz_params", "--inputs", 20, "--deep", 0, broken=READ_NOTHING)
    assert code == 1 and found["findings"] == 1


@pytest.mark.parametrize(
    ("groups", "few"), [(("images",), 200), (fuzz_shards.GROUPS[1:], 8)], ids=["images", "others"]
)
def test_inputs(groups: Sequence[str], few: int, work: Path) -> None:
    options = ("--work", work / "inputs", "--groups", ",".join(groups), "--inputs", few, "--seed", 4)
    code, found = harness("fuzz_shards", *options)
    assert code == 0 and all(found["inputs"][group] >= 8 for group in groups)


def test_readers() -> None:
    code, found = harness("fuzz_readers", "--inputs", 200, "--seed", 5)
    assert code == 0 and set(found["inputs"].values()) == {200}


def test_a_reader_that_raises_something_else_is_found() -> None:
    code, found = harness("fuzz_readers", "--inputs", 5, "--groups", "weights", broken=READ_NO_WEIGHTS)
    assert code == 1 and found["findings"] == 1


def test_injections(work: Path) -> None:
    code, _ = harness("injection", "--work", work / "injection")
    assert code == 0
