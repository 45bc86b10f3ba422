"""Short runs of the harnesses, and that each of them fails when something is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.faults import disk, flips, fuzz_params, fuzz_shards, injection, kills
from tgo_pipeline.storage import digests, writing


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the unbroken run lies that all harnesses compare with."""
    return tmp_path_factory.mktemp("faults")


def summary(capfd: pytest.CaptureFixture[str]) -> dict:
    """The last line that a harness printed."""
    return json.loads(capfd.readouterr().out.strip().splitlines()[-1])


def test_kills(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        kills.main(
            ["--work", str(work / "runs"), "--seed", "1", "--kills", "10", "--modes", "fork,points,score"]
        )
        == 0
    )
    assert summary(capfd)["kills"] >= 10


def test_kills_see_a_file_that_is_not_written_whole(
    work: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Without its sweep, a half-written file of a killed run stays."""
    monkeypatch.setattr(writing, "_sweep_once", lambda folder: None)
    call = [
        "--work",
        str(work / "runs"),
        "--seed",
        "5",
        "--kills",
        "12",
        "--modes",
        "points",
        "--minutes",
        "3",
    ]
    assert kills.main(call) == 1
    assert summary(capfd)["findings"] >= 1


def test_disks(work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    call = [
        "--work",
        str(work / "runs"),
        "--seed",
        "2",
        "--trials",
        "1",
        "--parts",
        "limit,owner,locks,readonly,full",
    ]
    assert disk.main(call) == 0
    assert summary(capfd)["trials"] >= 2


def test_parameter_files(capfd: pytest.CaptureFixture[str]) -> None:
    assert fuzz_params.main(["--inputs", "200", "--deep", "0", "--seed", "3"]) == 0
    assert summary(capfd)["inputs"] == 200


def test_an_error_that_is_none_of_the_input_is_found(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: object) -> object:
        raise KeyError("broken")

    monkeypatch.setattr("tgo_pipeline.params.parse", broken)
    assert fuzz_params.main(["--inputs", "20", "--deep", "0"]) == 1
    assert summary(capfd)["findings"] == 1


@pytest.mark.parametrize("group", fuzz_shards.GROUPS)
def test_inputs(group: str, work: Path, capfd: pytest.CaptureFixture[str]) -> None:
    few = "200" if group == "images" else "8"
    assert (
        fuzz_shards.main(["--work", str(work / "inputs"), "--groups", group, "--inputs", few, "--seed", "4"])
        == 0
    )
    assert summary(capfd)["inputs"][group] >= 8


def test_injections(work: Path) -> None:
    assert injection.main(["--work", str(work / "injection")]) == 0


def test_flips(work: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    call = ["--done", str(work / "runs/truth"), "--flips", "200", "--seed", "1"]
    assert flips.main(call) == 0
    assert summary(capfd)["refused"] == 200
    monkeypatch.setattr(digests, "verify", lambda path: None)
    assert flips.main(call) == 1, "without digests some flips are read"
