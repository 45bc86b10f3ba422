"""`kill -9` at several points of the long stages, then `dvc repro`: the same bits as an unbroken run."""

import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from tests.project import copy_project, environment, run
from tgo_pipeline.storage.tables import read_folder, read_table


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose images are sampled."""
    folder = copy_project(tmp_path_factory.mktemp("generated") / "project")
    run(folder, "dvc", "repro", "generate")
    return folder


@pytest.fixture(scope="module")
def unbroken(generated: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same project after an unbroken run up to the tuned model."""
    folder = tmp_path_factory.mktemp("unbroken") / "project"
    shutil.copytree(generated, folder)
    run(folder, "dvc", "repro", "fine_tune")
    return folder


def kill_stage(
    folder: Path, stage: str, reached: Callable[[], bool], target: str, timeout_s: float = 900
) -> None:
    """Start `dvc repro`, and send SIGKILL to the process of `stage` as soon as `reached()`; it must still live."""
    dvc = subprocess.Popen(
        ["dvc", "repro", target],
        cwd=folder,
        env=environment(),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + timeout_s
    while not reached():
        if dvc.poll() is not None or time.monotonic() > deadline:
            dvc.kill()
            raise RuntimeError(f"dvc repro ended with {dvc.returncode} before the moment to kill {stage}")
        time.sleep(0.002)
    for process in psutil.Process(dvc.pid).children(recursive=True):
        if f"stages.{stage}" in process.cmdline() and "python" in Path(process.cmdline()[0]).name:
            process.kill()
    assert dvc.wait(timeout=60) != 0, f"{stage} had ended before it was killed"


def count(folder: Path, pattern: str) -> int:
    return len(list(folder.glob(pattern)))


def test_a_killed_score_stage_resumes(generated: Path, unbroken: Path, tmp_path: Path):
    folder = tmp_path / "project"
    shutil.copytree(generated, folder)
    for shards in (1, 4, 9):
        kill_stage(folder, "score", lambda n=shards: count(folder, "data/scores/*.parquet") >= n, "fine_tune")
    assert 9 <= count(folder, "data/scores/*.parquet") < 12
    run(folder, "dvc", "repro", "label")
    for table in ("data/scores", "data/labels"):
        assert read_folder(folder / table).equals(read_folder(unbroken / table))
        assert count(folder, f"{table}/*") == count(unbroken, f"{table}/*")
    assert read_table(folder / "data/thresholds.parquet") == read_table(unbroken / "data/thresholds.parquet")


def test_a_killed_fine_tune_stage_resumes(unbroken: Path, tmp_path: Path):
    folder = tmp_path / "project"
    shutil.copytree(unbroken, folder)
    for name in ("models", "data/encoded", "training"):
        shutil.rmtree(folder / name)
    kill_stage(folder, "fine_tune", lambda: count(folder, "data/encoded/*.safetensors") >= 2, "fine_tune")
    for step in (1, 4, 8):
        kill_stage(folder, "fine_tune", lambda n=step: newest_step(folder) >= n, "fine_tune")
    run(folder, "dvc", "repro", "fine_tune")
    weights = sorted((unbroken / "models/tuned").rglob("*.safetensors"))
    assert weights
    for path in weights:
        assert (folder / path.relative_to(unbroken)).read_bytes() == path.read_bytes()


def newest_step(folder: Path) -> int:
    """The step of the newest complete checkpoint, 0 without one."""
    found = [path.name for path in (folder / "models/checkpoints").glob("step-*")]
    return max((int(name.removeprefix("step-")) for name in found), default=0)
