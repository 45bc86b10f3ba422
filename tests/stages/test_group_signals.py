"""A signal to every process of a stage, as `scancel` and systemd send it: 130, and nothing that was finished is lost.

Each stage is ended twice, with SIGTERM and with SIGINT; a third run ends with the bytes of an unbroken one.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.project import PROMPTS, ROOT, environment
from tgo_pipeline.storage.shards import is_parts
from tgo_pipeline.storage.tables import row_count

SHARD_SIZE = 4
PARAMS: dict[str, Any] = {
    "seed": 0,
    "model": "demo",
    "revision": None,
    "prompts": {"train": "prompts.txt", "test_fraction": 0.5},
    "generate": {"steps": 2, "images_per_prompt": 80, "shard_size": SHARD_SIZE, "guidance_scale": 1.0},
    "score": {"rewards": {"clip": "demo", "aesthetic": "demo"}},
    "target": {"reward": "clip"},
    "threshold": {"bootstrap": 20},
    "label": {},
    "fine_tune": {"steps": 40, "batch_size": 8, "checkpoint_every": 100},
    "evaluate": {},
    "report": {},
    "runtime": {
        "device": "cpu",
        "threads": 1,
        "workers": 1,
        "generate_batch_size": 2,
        "micro_batch_size": 4,
    },
}
OUTPUT = {"generate": "data/generations", "score": "data/scores", "fine_tune": "models/tuned"}


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project in which every stage ran once: one process draws and scores the same as two, and takes less time."""
    folder = tmp_path_factory.mktemp("signals") / "unbroken"
    folder.mkdir()
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    write_params(folder, processes=1)
    for stage in ("prompts", "generate", "score", "threshold", "label"):
        finish(folder, stage)
    write_params(folder, processes=2)
    finish(folder, "fine_tune")
    return folder


def write_params(folder: Path, processes: int) -> None:
    runtime = {**PARAMS["runtime"], "processes": processes}
    (folder / "params.yaml").write_text(yaml.safe_dump({**PARAMS, "runtime": runtime}, sort_keys=False))


def start(folder: Path, stage: str) -> tuple[subprocess.Popen[bytes], Path]:
    """A stage as the leader of a group of its own, and the file with what it says."""
    log = folder / "said.txt"
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, "-m", "stages.cli", "run", stage],
            cwd=folder,
            env={**environment(), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=stream,
            start_new_session=True,
        )
    return process, log


def finish(folder: Path, stage: str) -> None:
    process, log = start(folder, stage)
    assert process.wait(timeout=600) == 0, log.read_text()


def interrupt(folder: Path, stage: str, number: signal.Signals) -> int:
    """Send a signal to the whole group of a stage when it is at work; how much there is then, in rows or steps."""
    before = amount(folder, stage)
    process, log = start(folder, stage)
    deadline = time.monotonic() + 300
    while not is_at_work(folder, stage, before, log.read_text()):
        assert process.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.002)
    os.killpg(process.pid, number)
    process.wait(timeout=300)
    said = log.read_text()
    assert process.returncode == 130, said
    assert "Traceback" not in said and said.splitlines()[-1].startswith(f"tgo {stage}: interrupted"), said
    return amount(folder, stage)


def is_at_work(folder: Path, stage: str, before: int, said: str) -> bool:
    """Whether a stage has gone on after what there was; the training says so every four steps."""
    if stage == "fine_tune":
        return any(f"step {step}/40" in said for step in range(before + 1, 40))
    return len(list((folder / OUTPUT[stage]).glob("*.parquet"))) > before // SHARD_SIZE


def amount(folder: Path, stage: str) -> int:
    """How much there is of a stage: steps, or rows, of parts too."""
    if stage == "fine_tune":
        steps = (path.name.removeprefix("step-") for path in folder.glob("models/checkpoints/step-*"))
        return max(map(int, steps), default=0)
    return sum(row_count(path) for path in (folder / OUTPUT[stage]).rglob("*.parquet"))


def files(folder: Path) -> dict[str, bytes]:
    wanted = ("*.parquet", "*.safetensors")
    paths = (path for pattern in wanted for path in folder.rglob(pattern))
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("stage", ["generate", "score", "fine_tune"])
def test_a_signal_to_the_group_loses_nothing(unbroken: Path, tmp_path: Path, stage: str) -> None:
    folder = tmp_path / "project"
    shutil.copytree(unbroken, folder)
    shutil.rmtree(folder / OUTPUT[stage])
    kept = [interrupt(folder, stage, number) for number in (signal.SIGTERM, signal.SIGINT)]
    assert 0 < kept[0] < kept[1], "the second run goes on after the first"
    finish(folder, stage)
    assert files(folder / OUTPUT[stage]) == files(unbroken / OUTPUT[stage])
    assert not [path for path in (folder / OUTPUT[stage]).rglob("*") if is_parts(path)]
