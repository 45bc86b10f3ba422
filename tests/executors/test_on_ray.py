"""The executor `ray` on a real cluster of this machine: the same files, whatever is killed meanwhile."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.project import ROOT
from tests.storage.test_shards import Writer, plan
from tests.storage.test_shards import run as run_alone
from tgo_pipeline.errors import TgoError
from tgo_pipeline.executors import Worker, execute, on_ray, one_by_one
from tgo_pipeline.executors.cluster_worker import identity
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.storage.shards import Shard, run_shards, status

ray: Any = pytest.importorskip("ray", reason="Ray is not installed (pip install 'tgo-pipeline[ray]')")
RUNTIME = RuntimeParams(executor="ray", processes=2)
COUNT = 12


class Dying(Writer):
    """Its process is killed on shards whose number is among `deadly`, once each or `always`."""

    def __init__(self, folder: Path, deadly: Sequence[int], *, always: bool = False) -> None:
        super().__init__(folder)
        self.deadly, self.always = deadly, always

    def __call__(self, runtime: RuntimeParams) -> Worker:
        return one_by_one(self.write_or_die)

    def write_or_die(self, shard: Shard) -> None:
        died = self.folder.with_name(f"died-{shard.index}")
        if shard.index in self.deadly and (self.always or not died.exists()):
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        self.write(shard)


class Hanging(Dying):
    """Its process stops in place of dying."""

    def write_or_die(self, shard: Shard) -> None:
        stopped = self.folder.with_name(f"stopped-{shard.index}")
        if shard.index in self.deadly and not stopped.exists():
            stopped.touch()
            os.kill(os.getpid(), signal.SIGSTOP)
        self.write(shard)


class Slow(Writer):
    def __call__(self, runtime: RuntimeParams) -> Worker:
        return one_by_one(self.write_slowly)

    def write_slowly(self, shard: Shard) -> None:
        time.sleep(0.4)
        self.write(shard)


class Faulty(Writer):
    def __call__(self, runtime: RuntimeParams) -> Worker:
        raise KeyError("a fault of this package")


PROGRAM = f"""
import logging, sys
from pathlib import Path
from tests.executors.test_on_ray import RUNTIME, Slow
from tests.storage.test_shards import plan
from tgo_pipeline.executors import execute
from tgo_pipeline.storage.shards import Interrupted, run_shards

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    folder = Path(sys.argv[1])
    try:
        run_shards(folder, plan({COUNT}), lambda todo, stop: execute(todo, stop, Slow(folder), RUNTIME))
    except Interrupted:
        sys.exit(130)
"""


@pytest.fixture(scope="module", autouse=True)
def _cluster() -> Iterator[None]:
    """A cluster of two cores that the tests of this file share."""
    patch = pytest.MonkeyPatch()
    patch.setenv("PYTHONPATH", str(ROOT))
    patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    patch.setenv("RAY_AUTH_MODE", "disabled")
    ray.init(num_cpus=2, include_dashboard=False, logging_level="WARNING", log_to_driver=False)
    yield
    ray.shutdown()
    patch.undo()


@pytest.fixture
def alone(tmp_path: Path) -> dict[str, str]:
    """The files as one process writes them."""
    run_alone(tmp_path / "alone", plan(COUNT))
    return digests(tmp_path / "alone")


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.parquet")}


def run(folder: Path, maker: Writer, shards: Sequence[Shard] | None = None) -> None:
    run_shards(folder, shards or plan(COUNT), lambda todo, stop: execute(todo, stop, maker, RUNTIME))


def test_two_workers_write_what_one_process_does(
    tmp_path: Path, alone: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = tmp_path / "progress.jsonl"
    monkeypatch.setenv(on_ray.PROGRESS, str(progress))
    run(tmp_path / "out", Slow(tmp_path / "out"))
    assert digests(tmp_path / "out") == alone
    lines = [json.loads(line) for line in progress.read_text().splitlines()]
    assert sorted(line["shard"] for line in lines) == sorted(alone)
    assert [line["written"] for line in lines] == list(range(1, COUNT + 1))
    assert len({line["worker"] for line in lines}) == 2


def test_workers_that_are_killed_or_hang_leave_their_shards_to_others(
    tmp_path: Path, alone: dict[str, str], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    run(tmp_path / "killed", Dying(tmp_path / "killed", (0, 5, 11)))
    assert digests(tmp_path / "killed") == alone
    assert [record.message.split(",")[0] for record in caplog.records if ", try 1 of 3: " in record.message]
    monkeypatch.setenv(on_ray.LIMIT, "3")
    run(tmp_path / "stopped", Hanging(tmp_path / "stopped", (4,)))
    assert digests(tmp_path / "stopped") == alone
    assert "train-00004-of-00012.parquet, try 1 of 3: it took longer than 3 s" in caplog.text


def test_a_shard_that_kills_every_worker_is_named(tmp_path: Path) -> None:
    maker = Dying(tmp_path / "out", (7,), always=True)
    with pytest.raises(
        TgoError, match=r"train-00007-of-00012\.parquet was given to 3 workers and none wrote it"
    ):
        run(tmp_path / "out", maker)
    assert status(tmp_path / "out", plan(COUNT)).done >= COUNT // 2
    run(tmp_path / "out", Writer(tmp_path / "out"))
    assert status(tmp_path / "out", plan(COUNT)).to_do == 0


def test_errors_are_those_of_one_machine(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(TgoError, match=r"^train-0000\d-of-00003\.parquet is bad$"):
        run(tmp_path / "bad", Writer(tmp_path / "bad"), plan(3, "bad"))
    with pytest.raises(TgoError, match=r"a fault of this package.*its traceback is above"):
        run(tmp_path / "faulty", Faulty(tmp_path / "faulty"))
    assert "in __call__" in capfd.readouterr().err


def test_a_node_with_other_code_or_without_the_folder_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_ray, "identity", lambda: identity() | {"tgo-pipeline": "other", "torch": "1.0"})
    with pytest.raises(
        TgoError, match=r"has tgo-pipeline \w+ for other, torch .* for 1.0: install the same on"
    ):
        run(tmp_path / "out", Writer(tmp_path / "out"))
    monkeypatch.undo()
    monkeypatch.setattr(on_ray.os, "getcwd", lambda: "/nowhere/project")
    with pytest.raises(TgoError, match="sees no folder /nowhere/project: the project has to be on storage"):
        run(tmp_path / "out", Writer(tmp_path / "out"))


def test_what_is_not_of_the_cluster_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (on_ray.LIMIT, on_ray.CPUS, on_ray.WORKERS):
        with monkeypatch.context() as patch:
            patch.setenv(name, "many")
            with pytest.raises(TgoError, match=f"the variable {name} is 'many'"):
                run(tmp_path / "out", Writer(tmp_path / "out"))
    runtime = RuntimeParams(executor="ray", device="cuda:1")
    with pytest.raises(TgoError, match="cuda:1, one GPU of one machine"):
        run_shards(
            tmp_path / "out", plan(1), lambda todo, stop: execute(todo, stop, Writer(tmp_path), runtime)
        )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_driver_that_is_ended_leaves_what_is_whole(
    tmp_path: Path, alone: dict[str, str], number: signal.Signals
) -> None:
    program, folder = tmp_path / "program.py", tmp_path / "out"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), str(folder)]
    driver = subprocess.Popen(command, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE)
    while len(digests(folder)) < 3:
        assert driver.poll() is None, driver.stderr and driver.stderr.read()
        time.sleep(0.05)
    driver.send_signal(number)
    driver.communicate(timeout=60)
    assert driver.returncode == (130 if number == signal.SIGTERM else -number)
    assert 3 <= len(digests(folder)) < COUNT
    run(folder, Writer(folder))
    assert digests(folder) == alone
    assert not list(folder.glob(".tmp-*"))


def test_a_node_that_goes_leaves_its_shards(tmp_path: Path, alone: dict[str, str]) -> None:
    """The raylet of one of two nodes is killed while its worker is at work."""
    from ray.cluster_utils import Cluster

    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    nodes = Cluster(initialize_head=True, head_node_args={"num_cpus": 1})
    gone = nodes.add_node(num_cpus=1)
    folder = tmp_path / "out"
    env = os.environ | {"PYTHONPATH": str(ROOT), "RAY_ADDRESS": nodes.address}
    driver = subprocess.Popen([sys.executable, str(program), str(folder)], env=env, stderr=subprocess.PIPE)
    try:
        while len(digests(folder)) < 3:
            assert driver.poll() is None, driver.stderr and driver.stderr.read()
            time.sleep(0.05)
        nodes.remove_node(gone, allow_graceful=False)
        _, said = driver.communicate(timeout=120)
        assert driver.returncode == 0, said
        assert digests(folder) == alone
    finally:
        for process in (driver, *psutil.Process(driver.pid).children()) if driver.poll() is None else ():
            process.kill()
        nodes.shutdown()
