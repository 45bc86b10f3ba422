"""Processes that the stage starts itself: how many, how they end, and that they train as those of a launcher do."""

from __future__ import annotations

import dataclasses
import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch
import yaml

from fine_tune.distributed import start
from tests.fine_tune import world
from tests.fine_tune.distributed.test_parallel import finished, prepared
from tests.project import ROOT
from tgo_pipeline import SAME_SIGNAL_S
from tgo_pipeline.params import Params, RuntimeParams
from tgo_pipeline.storage.workspace import HERE

STEPS = {"steps": 400, "checkpoint_every": 1}
"""Long enough to be interrupted."""


def params(batch_size: int, **runtime: Any) -> Params:
    whole = world.params(Path("model"), batch_size=batch_size)
    return dataclasses.replace(whole, runtime=RuntimeParams(**runtime))


@pytest.mark.parametrize(
    ("gpus", "batch_size", "runtime", "expected", "said"),
    [
        (0, 8, {"device": "cpu", "processes": 4}, 4, None),
        (0, 8, {"processes": 2}, 2, None),
        (0, 8, {"device": "cpu", "processes": 3}, 2, "training with 2, since a batch of 8 has equal parts"),
        (2, 8, {"device": "cpu", "processes": 4}, 4, None),
        (8, 8, {"processes": 8}, 8, None),
        (8, 8, {"processes": 1}, 1, None),
        (2, 8, {"processes": 8}, 2, "training with 2, since there is a device for 2"),
        (6, 8, {"device": "cuda", "processes": 8}, 4, "training with 4, since a batch of 8 has equal parts"),
        (1, 8, {"processes": 2}, 1, "training with 1, since there is a device for 1"),
        (2, 8, {"device": "cuda:1", "processes": 2}, 1, "training with 1"),
        (0, 8, {"device": "cuda", "processes": 2}, 1, "training with 1"),  # refused when it is opened
    ],
)
def test_as_many_as_the_key_and_the_devices_allow(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    gpus: int,
    batch_size: int,
    runtime: dict[str, Any],
    expected: int,
    said: str | None,
) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with caplog.at_level(logging.INFO, "tgo"):
        assert start.count(params(batch_size, **runtime)) == expected
    assert (said is None and not caplog.messages) or (said is not None and said in caplog.messages[0])


def test_processes_of_a_launcher_start_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    assert start.count(params(8, device="cpu", processes=4)) == 1


def project(folder: Path, source: Path, **fine_tune: Any) -> Path:
    """A project that trains with two processes."""
    prepared(folder, source)
    raw = yaml.safe_load((folder / "params.yaml").read_text())
    raw["runtime"] = {"device": "cpu", "processes": 2}
    raw["fine_tune"] |= fine_tune
    (folder / "params.yaml").write_text(yaml.safe_dump(raw))
    return folder


def stage(folder: Path, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "stages.fine_tune"],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", **variables},
        stderr=subprocess.PIPE,
        text=True,
    )


def result(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in (folder / HERE.model).rglob("*.safetensors")}


@pytest.fixture(scope="module")
def launched(source: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What two processes of accelerate's launcher have trained."""
    folder, printed = finished(
        tmp_path_factory, lambda folder: prepared(folder, source), "ddp.yaml", "stages.fine_tune"
    )
    assert printed.count("step 4/4") == 1
    return result(folder)


def test_they_train_as_those_of_a_launcher(source: Path, launched: dict[str, bytes], tmp_path: Path) -> None:
    process = stage(project(tmp_path, source))
    said = process.communicate(timeout=600)[1]
    assert process.returncode == 0, said
    assert said.count("step 4/4") == 1  # the main process speaks for all
    assert result(tmp_path) == launched


def test_tasks_of_slurm_train_as_those_of_a_launcher(
    source: Path, launched: dict[str, bytes], tmp_path: Path
) -> None:
    """By the command of docs/TRAINING.md, with the variables that Slurm gives to the two tasks of a node."""
    page = (ROOT / "docs/TRAINING.md").read_text(encoding="utf-8")
    command = re.search(r"bash -c '([^']+)'", page)
    assert command
    project(tmp_path, source)
    tasks = [
        subprocess.Popen(
            ["bash", "-c", command[1].replace("exec python", f"exec {sys.executable}")],
            cwd=tmp_path,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": "29653",
                "SLURM_PROCID": str(rank),
                "SLURM_LOCALID": str(rank),
                "SLURM_NTASKS": "2",
                "SLURM_NTASKS_PER_NODE": "2",
            },
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    said = [task.communicate(timeout=600)[1] for task in tasks]
    assert [task.returncode for task in tasks] == [0, 0], said
    assert result(tmp_path) == launched


@pytest.fixture
def training(source: Path, tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """A long training in `tmp_path` that has written its first checkpoints."""
    process = stage(project(tmp_path, source, **STEPS))
    deadline = time.monotonic() + 300
    while not list(tmp_path.glob("models/checkpoints/step-*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    yield process
    process.kill()
    process.wait()


def ranks(process: subprocess.Popen[str]) -> list[psutil.Process]:
    return [
        child
        for child in psutil.Process(process.pid).children()
        if any("spawn_main" in word for word in child.cmdline())
    ]


def test_one_that_dies_is_named_in_one_line(training: subprocess.Popen[str]) -> None:
    began = time.monotonic()
    ranks(training)[0].kill()
    said = training.communicate(timeout=120)[1]
    assert time.monotonic() - began < 60
    assert training.returncode == 2 and "Traceback" not in said, said
    last = said.splitlines()[-1]
    assert re.match(
        r"tgo fine_tune: process \d of 2 of the training was ended by SIGKILL: often memory", last
    )


def test_they_end_with_their_parent(training: subprocess.Popen[str]) -> None:
    alive = ranks(training)
    assert len(alive) == 2
    training.kill()
    assert not psutil.wait_procs(alive, timeout=30)[1]


def test_a_second_signal_ends_them_at_once(training: subprocess.Popen[str]) -> None:
    alive = ranks(training)
    for rank in alive:
        rank.suspend()  # or the first signal ends them too
    training.send_signal(signal.SIGTERM)
    time.sleep(SAME_SIGNAL_S + 1)  # a signal within that time is the same one, and this process may be slow
    training.send_signal(signal.SIGTERM)
    said = training.communicate(timeout=60)[1]
    assert training.returncode == 130 and "Traceback" not in said, said
    assert not psutil.wait_procs(alive, timeout=30)[1]


def test_an_error_of_the_input_is_one_line(source: Path, tmp_path: Path) -> None:
    process = stage(project(tmp_path, source, validation={"every": 2}), TGO_ALLOW_STALE="1")
    (tmp_path / HERE.prompts).unlink()
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 2 and "Traceback" not in said, said
    assert said.splitlines()[-1].startswith(f"tgo fine_tune: {HERE.prompts} does not exist")
