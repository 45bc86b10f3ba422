"""`runtime.executor`: this package's, one of the project folder; and what is said of those that do not work."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.plugins.modules import project_folder
from tests.storage.test_shards import Writer, plan
from tgo_pipeline.errors import TgoError
from tgo_pipeline.executors import execute
from tgo_pipeline.params import RuntimeParams, parse
from tgo_pipeline.storage.shards import run_shards

MODULE = """
import pickle

def backwards(shards, stop, make_worker, runtime):
    worker = pickle.loads(pickle.dumps(make_worker))(runtime)
    list(worker(reversed(shards)))

def lazy(shards, stop, make_worker, runtime):
    list(make_worker(runtime)(shards[1:]))

def broken(shards, stop, make_worker, runtime):
    raise KeyError("no machine")

number = 3
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A current folder with `machines.py` in it, which is forgotten afterwards."""
    with project_folder(tmp_path, monkeypatch, machines=MODULE):
        yield tmp_path


def run(folder: Path, executor: str) -> None:
    runtime = RuntimeParams(executor=executor)
    run_shards(folder, plan(3), lambda todo, stop: execute(todo, stop, Writer(folder), runtime))


def test_an_executor_of_ones_own_gets_the_shards(folder: Path) -> None:
    run(folder / "out", "machines:backwards")
    written = [folder / "out" / shard.name for shard in plan(3)]
    times = [path.stat().st_mtime_ns for path in written]
    assert times == sorted(times, reverse=True)


@pytest.mark.parametrize(
    ("executor", "reason"),
    [
        ("machines:lazy", r"1 of 3 shards were not written, the first is train-00000-of-00003.parquet"),
        ("machines:number", "executor machines:number: it is int, which cannot be called"),
        (
            "machines:absent",
            "executor machines:absent: machines has no 'absent'; it has backwards, broken, lazy",
        ),
        ("absent:run", "executor absent:run: there is no module 'absent'"),
    ],
)
def test_what_an_executor_does_wrong_is_said(folder: Path, executor: str, reason: str) -> None:
    with pytest.raises(TgoError, match=reason):
        run(folder / "out", executor)


def test_an_unknown_name_is_refused_with_the_parameters() -> None:
    with pytest.raises(
        TgoError, match=r"runtime.executor: unknown executor 'slurm'. There are local, ranks, ray, or name"
    ):
        parse(RuntimeParams, {"executor": "slurm"}, "runtime.")
