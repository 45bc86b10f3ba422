"""The executor `ranks`: who a process is by its environment, and several of them in one folder, with kills."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.project import ROOT
from tests.storage.test_shards import Writer, plan, run
from tgo_pipeline.errors import TgoError
from tgo_pipeline.executors import execute, ranks
from tgo_pipeline.executors.ranks import Member, lease_s, member
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.storage.shards import OwnPartDone, run_shards, status

COUNT = 24
PROGRAM = """
import logging, sys, time
from pathlib import Path
from tests.storage.test_shards import Writer, plan
from tgo_pipeline.executors import execute, one_by_one
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.storage.shards import Interrupted, run_shards

class Slow(Writer):
    def write(self, shard):
        time.sleep(0.08)
        super().write(shard)

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    folder, runtime = Path(sys.argv[1]), RuntimeParams(executor="ranks", processes=int(sys.argv[2]))
    try:
        run_shards(folder, plan(%d), lambda todo, stop: execute(todo, stop, Slow(folder), runtime), together=True)
    except Interrupted:
        sys.exit(130)
"""


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({}, (0, 1)),
        ({"TGO_RANK": "2", "TGO_RANKS": "4", "RANK": "0", "WORLD_SIZE": "9"}, (2, 4)),
        ({"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "1"}, (1, 2)),
        ({"SLURM_PROCID": "3", "SLURM_NTASKS": "8"}, (3, 8)),
        ({"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_MIN": "5", "SLURM_ARRAY_TASK_COUNT": "4"}, (2, 4)),
        (
            {
                "SLURM_ARRAY_TASK_ID": "1",
                "SLURM_ARRAY_TASK_MIN": "0",
                "SLURM_ARRAY_TASK_COUNT": "2",
                "SLURM_PROCID": "1",
                "SLURM_NTASKS": "4",
            },
            (5, 8),
        ),
        (
            {
                "SLURM_ARRAY_TASK_ID": "30",
                "SLURM_ARRAY_TASK_MIN": "10",
                "SLURM_ARRAY_TASK_COUNT": "3",
                "SLURM_ARRAY_TASK_STEP": "10",
            },
            (2, 3),
        ),
        ({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "3"}, (1, 3)),
        ({"PMI_RANK": "0", "PMI_SIZE": "3"}, (0, 3)),
    ],
)
def test_launchers_say_who_a_process_is(environment: dict[str, str], expected: tuple[int, int]) -> None:
    assert member(environment) == Member(*expected)


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"TGO_RANK": "4", "TGO_RANKS": "4"}, r"rank 4 of 4 .*from 0 to one less"),
        ({"TGO_RANK": "1"}, r"variable TGO_RANKS is not set"),
        ({"RANK": "one", "WORLD_SIZE": "2"}, r"variable RANK is 'one': it must be a whole number"),
        ({"SLURM_ARRAY_TASK_ID": "1"}, r"SLURM_ARRAY_TASK_MIN is not set"),
    ],
)
def test_what_contradicts_itself_is_refused(environment: dict[str, str], message: str) -> None:
    with pytest.raises(TgoError, match=message):
        member(environment)


@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan", "inf"])
def test_what_is_no_lease_is_refused(text: str) -> None:
    with pytest.raises(TgoError, match=r"TGO_LEASE_S is .*a number of seconds above 0"):
        lease_s({"TGO_LEASE_S": text})


@pytest.mark.parametrize(
    ("device", "processes", "expected"),
    [
        ("auto", 1, "cuda:1"),
        ("cuda", 1, "cuda:1"),
        ("cuda:3", 1, "cuda:3"),
        ("cpu", 1, "cpu"),
        ("auto", 4, "auto"),
    ],
)
def test_a_task_takes_its_own_gpu_of_those_that_it_sees(
    monkeypatch: pytest.MonkeyPatch, device: str, processes: int, expected: str
) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    runtime = RuntimeParams(executor="ranks", device=device, processes=processes)
    assert ranks._on_own_gpu(runtime, {"SLURM_LOCALID": "5"}).device == expected
    assert ranks._on_own_gpu(runtime, {}).device == device


@pytest.fixture
def program(tmp_path: Path) -> Path:
    path = tmp_path / "program.py"
    path.write_text(PROGRAM % COUNT)
    return path


def start(program: Path, folder: Path, rank: int, size: int = 4, processes: int = 1) -> subprocess.Popen[str]:
    own = {"TGO_RANK": str(rank), "TGO_RANKS": str(size), "TGO_LEASE_S": "1.5", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, str(program), str(folder), str(processes)],
        env=os.environ | own,
        stderr=subprocess.PIPE,
        text=True,
    )


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.parquet")}


@pytest.fixture
def alone(tmp_path: Path) -> dict[str, str]:
    """The files as one process writes them."""
    run(tmp_path / "alone", plan(COUNT))
    return digests(tmp_path / "alone")


def test_several_processes_write_every_shard_once(
    program: Path, tmp_path: Path, alone: dict[str, str]
) -> None:
    folder = tmp_path / "together"
    each = [start(program, folder, rank, 2) for rank in range(2)]
    said = [process.communicate(timeout=120)[1] for process in each]
    assert [process.returncode for process in each] == [0, 0], said
    assert digests(folder) == alone
    assert status(folder, plan(COUNT)).to_do == 0
    again = start(program, folder, 0, 1)
    assert f"{COUNT} done, 0 stale, 0 to do" in again.communicate(timeout=60)[1]
    assert list((folder / ".claims").iterdir()) == []


def test_processes_that_are_killed_or_hang_leave_their_shards_to_the_others(
    program: Path, tmp_path: Path, alone: dict[str, str]
) -> None:
    """Four ranks, one of two processes; SIGKILL, SIGSTOP beyond the lease and SIGTERM at random, and new ranks."""
    folder, dice = tmp_path / "together", random.Random(3)
    each = {rank: start(program, folder, rank, processes=1 + (rank == 3)) for rank in range(4)}
    stopped: list[subprocess.Popen[str]] = []
    deadline = time.monotonic() + 60
    for kind in ("kill", "stop", "term", "kill"):
        time.sleep(dice.uniform(1.0, 2.0))
        rank = dice.randrange(4)
        if each[rank].poll() is not None:
            continue
        number = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "term": signal.SIGTERM}[kind]
        each[rank].send_signal(number)
        if kind == "stop":
            stopped.append(each[rank])
        each[rank] = start(program, folder, rank)
    for process in each.values():
        if process not in stopped:
            said = process.communicate(timeout=max(1.0, deadline - time.monotonic()))[1]
            assert process.returncode in (0, 130), said
    for process in stopped:
        process.send_signal(signal.SIGCONT)
        assert process.wait(timeout=60) in (0, 130)
    last = start(program, folder, 0, 1)
    last.communicate(timeout=60)
    assert digests(folder) == alone
    assert not [path for path in folder.iterdir() if path.name.startswith(".tmp-")]


def test_shards_are_divided_by_number(
    tmp_path: Path, alone: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each ends with its own; with claims, or alone, the rest is written."""
    folder, runtime = tmp_path / "divided", RuntimeParams(executor="ranks")
    monkeypatch.setenv("TGO_DIVIDE", "index")

    def work(rank: int) -> None:
        monkeypatch.setenv("TGO_RANK", str(rank))
        monkeypatch.setenv("TGO_RANKS", "3")
        run_shards(
            folder,
            plan(COUNT),
            lambda todo, stop: execute(todo, stop, Writer(folder), runtime),
            together=True,
        )

    for rank, written in ((1, 8), (0, 16)):
        with pytest.raises(
            OwnPartDone, match=rf"^rank {rank} of 3 .*; {COUNT - written} of \d+ are with others"
        ):
            work(rank)
        assert status(folder, plan(COUNT)).done == written
    (folder / plan(COUNT)[1].name).unlink()
    with pytest.raises(OwnPartDone, match="1 of 9 are with others, the first is train-00001-of-00024"):
        work(2)
    monkeypatch.setenv("TGO_DIVIDE", "claims")
    work(2)
    assert digests(folder) == alone
    monkeypatch.setenv("TGO_DIVIDE", "evenly")
    (folder / plan(COUNT)[1].name).unlink()
    with pytest.raises(TgoError, match="TGO_DIVIDE is 'evenly': it must be claims or index"):
        work(2)


def test_a_run_on_its_own_and_one_that_shares_exclude_each_other(program: Path, tmp_path: Path) -> None:
    folder = tmp_path / "together"
    process = start(program, folder, 0, 1)
    while not list(folder.glob("*.parquet")):
        assert process.poll() is None
        time.sleep(0.02)
    with pytest.raises(TgoError, match="is being written by another run"):
        run(folder, plan(COUNT))
    process.communicate(timeout=60)


def test_a_list_that_is_of_no_folder_is_written_as_on_one_machine(tmp_path: Path) -> None:
    from tests.storage.test_shards import Writer
    from tgo_pipeline.storage.shards import Stop

    tmp_path.joinpath("out").mkdir()
    ranks.execute(plan(3), Stop(), Writer(tmp_path / "out"), RuntimeParams(executor="ranks"))
    assert status(tmp_path / "out", plan(3)).done == 3


def test_a_shard_that_fails_ends_this_run_as_it_would_alone(tmp_path: Path) -> None:
    from tests.storage.test_shards import Writer
    from tgo_pipeline.executors import execute

    folder, runtime = tmp_path / "out", RuntimeParams(executor="ranks")
    with pytest.raises(TgoError, match=r"00001-of-00003.parquet is bad"):
        bad = [plan(3)[0], plan(3, "bad")[1], plan(3)[2]]
        run_shards(
            folder, bad, lambda todo, stop: execute(todo, stop, Writer(folder), runtime), together=True
        )
    assert list((folder / ".claims").iterdir()) == []
