"""Folders of shards: resume, staleness, locking, interruption, and a disk that is full."""

import errno
import fcntl
import logging
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from tests.rewriting import shown
from tgo_pipeline.devices import cores
from tgo_pipeline.errors import TgoError
from tgo_pipeline.executors import Worker, execute, one_by_one
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.storage import locks, shards
from tgo_pipeline.storage.shards import Interrupted, Shard, Stop, run_shards
from tgo_pipeline.storage.tables import read_folder, write_table
from tgo_pipeline.storage.writing import TEMPORARY, atomic


def plan(count: int, salt: str = "") -> list[Shard]:
    return [Shard("train", i, count, f"f{i}{salt}") for i in range(count)]


def write(folder: Path, shard: Shard, failed: int = 0) -> None:
    with atomic(folder / shard.name) as temporary:
        write_table(
            pa.table({"x": [shard.index]}), temporary, {"fingerprint": shard.fingerprint, "failed": failed}
        )


class Writer:
    """Builds a worker that writes a one-row shard; a module-level class, so that processes can receive it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, runtime: RuntimeParams) -> Worker:
        return one_by_one(self.write)

    def write(self, shard: Shard) -> None:
        if shard.fingerprint.endswith("bad"):
            raise TgoError(f"{shard.name} is bad")
        write(self.folder, shard)


def run(folder: Path, wanted: Sequence[Shard]) -> list[str]:
    written: list[str] = []

    def work(waiting: Sequence[Shard], stop: Stop) -> None:
        for shard in waiting:
            write(folder, shard)
            written.append(shard.name)
            stop.check()

    run_shards(folder, wanted, work)
    return written


def test_only_missing_and_stale_shards_are_written(tmp_path: Path):
    assert len(run(tmp_path, plan(4))) == 4
    assert run(tmp_path, plan(4)) == []
    (tmp_path / plan(4)[2].name).unlink()
    changed = [Shard("train", 0, 4, "other"), *plan(4)[1:]]
    assert shards.status(tmp_path, changed) == shards.Status(done=2, stale=1, to_do=1, failed=0)
    assert run(tmp_path, changed) == [changed[0].name, changed[2].name]


def test_shards_outside_the_plan_and_temporaries_are_removed(tmp_path: Path):
    run(tmp_path, plan(4))
    (tmp_path / f"{TEMPORARY}1-train.parquet").write_bytes(b"half")
    run(tmp_path, plan(2))
    assert shown(tmp_path) == [s.name for s in plan(2)]
    assert not list(tmp_path.glob(f"{TEMPORARY}*")) and len(list(tmp_path.glob(".*.xxh3"))) == 2


def test_a_run_that_fails_keeps_the_shards_of_the_old_plan(tmp_path: Path):
    run(tmp_path, plan(4))

    def fail(waiting: Sequence[Shard], stop: Stop) -> None:
        raise TgoError("no such model")

    with pytest.raises(TgoError, match="no such model"):
        run_shards(tmp_path, plan(2), fail)
    assert shown(tmp_path) == [s.name for s in plan(4)]


def test_a_damaged_shard_is_written_again(tmp_path: Path):
    run(tmp_path, plan(2))
    path = tmp_path / plan(2)[1].name
    path.write_bytes(path.read_bytes()[:-20])
    assert run(tmp_path, plan(2)) == [path.name]


def test_failed_samples_are_counted(tmp_path: Path):
    write(tmp_path, plan(2)[0], failed=3)
    assert shards.status(tmp_path, plan(2)) == shards.Status(done=1, stale=0, to_do=1, failed=3)


def test_a_failed_write_leaves_the_old_file(tmp_path: Path):
    path = tmp_path / "table.txt"
    path.write_text("old")
    with pytest.raises(ValueError, match="no"), atomic(path) as temporary:
        temporary.write_text("new")
        raise ValueError("no")
    assert path.read_text() == "old"
    assert shown(tmp_path) == [path.name]


def test_a_full_disk_is_said_and_nothing_is_left(tmp_path: Path):
    """/dev/full gives a real ENOSPC from the kernel at write time."""
    path = tmp_path / "table.parquet"
    message = r"disk is full while writing .*table\.parquet: nothing half-written"
    with pytest.raises(TgoError, match=message), atomic(path) as temporary:
        temporary.symlink_to("/dev/full")
        with temporary.open("wb") as stream:
            stream.write(b"x" * 100_000)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_of_the_system_pass_through(tmp_path: Path):
    with pytest.raises(OSError, match="denied") as caught, atomic(tmp_path / "x"):
        raise OSError(errno.ENOEXEC, "denied")
    assert not isinstance(caught.value, TgoError)


def test_two_runs_at_once_are_refused(tmp_path: Path):
    folder = tmp_path / "scores"
    script = f"""
        import sys, time
        from pathlib import Path
        from tgo_pipeline.storage.locks import lock
        with lock(Path({str(folder)!r})):
            print("held", flush=True)
            time.sleep(60)
    """
    holder = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(
            TgoError, match=rf"scores is being written by another run \(process {holder.pid}\)"
        ):
            run(folder, plan(1))
    finally:
        holder.kill()
        holder.wait()
    assert run(folder, plan(1)) == [plan(1)[0].name], "the lock ends with the process, however it ends"


def refusing(number: int) -> Callable[..., None]:
    def flock(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    return flock


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS])
def test_where_files_cannot_be_locked_a_run_goes_on_and_says_so_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, number: int
) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(number))
    locks._warn_of_no_locks.cache_clear()
    with caplog.at_level(logging.WARNING, "tgo"):
        assert run(tmp_path / "a", plan(1)) == run(tmp_path / "b", plan(1)) == [plan(1)[0].name]
    (warning,) = caplog.messages
    assert os.strerror(number) in warning and "make sure that no other run writes" in warning


@pytest.mark.parametrize("number", [errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES])
def test_a_file_that_another_process_holds_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(number))
    with pytest.raises(TgoError, match="is being written by another run"):
        run(tmp_path / "folder", plan(1))


def test_a_lock_that_fails_for_another_reason_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fcntl, "flock", refusing(errno.EIO))
    with pytest.raises(
        TgoError, match=r"\.folder\.lock cannot be locked \(Input/output error\): check the disk"
    ):
        run(tmp_path / "folder", plan(1))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_shard_in_work(tmp_path: Path, number: int):
    before = signal.getsignal(number)

    def work(waiting: Sequence[Shard], stop: Stop) -> None:
        for shard in waiting:
            if shard.index == 1:
                os.kill(os.getpid(), number)
            write(tmp_path, shard)
            stop.check()

    with pytest.raises(Interrupted):
        run_shards(tmp_path, plan(4), work)
    assert shards.status(tmp_path, plan(4)).done == 2
    assert signal.getsignal(number) is before
    assert run(tmp_path, plan(4)) == [s.name for s in plan(4)[2:]]


@pytest.mark.parametrize("processes", [1, 2])
def test_any_number_of_processes_writes_the_same(tmp_path: Path, processes: int):
    runtime = RuntimeParams(processes=processes)
    run_shards(tmp_path, plan(5), lambda todo, stop: execute(todo, stop, Writer(tmp_path), runtime))
    assert shards.status(tmp_path, plan(5)).done == 5
    assert read_folder(tmp_path)["x"].to_list() == [0, 1, 2, 3, 4]


def test_the_last_shard_of_a_killed_run_has_the_threads_of_the_others(tmp_path: Path):
    """Sums over another number of threads end in other digits: what is left must not be scored with more of them."""
    runtime = RuntimeParams(processes=2)

    def threads(shards: Sequence[Shard]) -> list[int]:
        run_shards(tmp_path, shards, lambda todo, stop: execute(todo, stop, ThreadCounter(tmp_path), runtime))
        return read_folder(tmp_path)["x"].to_list()

    whole = threads(plan(3))
    assert whole == [max(1, cores() // 2)] * 3
    (tmp_path / plan(3)[1].name).unlink()
    assert threads(plan(3)) == whole


class ThreadCounter(Writer):
    """A writer of the number of threads that it may use."""

    def __call__(self, runtime: RuntimeParams) -> Worker:
        def write_threads(shard: Shard) -> None:
            with atomic(self.folder / shard.name) as temporary:
                table = pa.table({"x": [runtime.threads or cores()]})
                write_table(table, temporary, {"fingerprint": shard.fingerprint, "failed": 0})

        return one_by_one(write_threads)


@pytest.mark.parametrize("processes", [1, 2])
def test_the_error_of_a_worker_reaches_the_user(tmp_path: Path, processes: int):
    wanted = [*plan(1), Shard("train", 1, 3, "bad"), Shard("train", 2, 3, "bad")]
    with pytest.raises(TgoError, match="is bad"):
        run_shards(
            tmp_path,
            wanted,
            lambda todo, stop: execute(todo, stop, Writer(tmp_path), RuntimeParams(processes=processes)),
        )


def test_workers_end_when_their_parent_is_killed(tmp_path: Path):
    script = f"""
        import time
        from pathlib import Path
        from tests.storage.test_shards import Sleeper, plan
        from tgo_pipeline.executors import execute
        from tgo_pipeline.params import RuntimeParams
        from tgo_pipeline.storage.shards import run_shards
        if __name__ == "__main__":
            folder = Path({str(tmp_path)!r})
            run_shards(folder, plan(50), lambda w, s: execute(w, s, Sleeper(folder), RuntimeParams(processes=2)))
    """
    file = tmp_path.parent / f"{tmp_path.name}.py"
    file.write_text(textwrap.dedent(script))
    root = str(Path(__file__).parents[2])
    parent = subprocess.Popen([sys.executable, str(file)], env={**os.environ, "PYTHONPATH": root}, cwd=root)
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("train-*")) and time.monotonic() < deadline:
        time.sleep(0.05)
    parent.kill()
    parent.wait()
    time.sleep(1.5)
    count = len(list(tmp_path.glob("train-*")))
    time.sleep(1.5)
    assert 0 < count == len(list(tmp_path.glob("train-*"))) < 50


def test_shards_that_nobody_takes_do_not_keep_the_process(tmp_path: Path):
    """More than a pipe holds are left when both workers fail."""
    script = f"""
        from pathlib import Path
        from tests.storage.test_shards import Writer, plan
        from tgo_pipeline.executors import execute
        from tgo_pipeline.params import RuntimeParams
        from tgo_pipeline.storage.shards import run_shards
        if __name__ == "__main__":
            folder = Path({str(tmp_path)!r})
            run_shards(
                folder, plan(2000, "bad"), lambda w, s: execute(w, s, Writer(folder), RuntimeParams(processes=2))
            )
    """
    file = tmp_path.parent / f"{tmp_path.name}.py"
    file.write_text(textwrap.dedent(script))
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        [sys.executable, str(file)],
        env={**os.environ, "PYTHONPATH": root},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 1
    assert "is bad" in done.stderr


class Sleeper(Writer):
    """A writer that takes 0.2 s a shard."""

    def write(self, shard: Shard) -> None:
        time.sleep(0.2)
        super().write(shard)
