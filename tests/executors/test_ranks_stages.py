"""Sampling and scoring by several ranks of one folder, with kills: the bytes and scores of one process."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import yaml

from tests.project import PROMPTS, ROOT, environment
from tgo_pipeline.storage.tables import read_table

PARAMS = {
    "seed": 0,
    "model": "demo",
    "revision": None,
    "prompts": {"train": "prompts.txt", "test_fraction": 0.5},
    "generate": {"steps": 2, "images_per_prompt": 24, "shard_size": 4, "guidance_scale": 1.0},
    "score": {"rewards": {"clip": "demo", "aesthetic": "demo"}},
    "target": {"reward": "clip"},
    "threshold": {"bootstrap": 20},
    "label": {},
    "fine_tune": {},
    "evaluate": {},
    "report": {},
}
RUNTIME = {"device": "cpu", "threads": 1, "workers": 1, "generate_batch_size": 2}


def project(folder: Path, executor: str) -> Path:
    folder.mkdir()
    (folder / "prompts.txt").write_text("\n".join(PROMPTS))
    (folder / "params.yaml").write_text(
        yaml.safe_dump(PARAMS | {"runtime": RUNTIME | {"executor": executor}})
    )
    start(folder, "prompts").wait()
    return folder


def start(folder: Path, stage: str, rank: int = 0, size: int = 1) -> subprocess.Popen[str]:
    own = {"TGO_RANK": str(rank), "TGO_RANKS": str(size), "TGO_LEASE_S": "20", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        [sys.executable, "-m", "stages.cli", "run", stage],
        cwd=folder,
        env=environment() | own,
        stderr=subprocess.PIPE,
        text=True,
    )


def together(folder: Path, stage: str) -> None:
    """Three ranks, the second of which is killed when the first shards are there, and begun again."""
    each = [start(folder, stage, rank, 3) for rank in range(3)]
    output = folder / "data" / {"generate": "generations", "score": "scores"}[stage]
    while not list(output.glob("*.parquet")):
        assert any(process.poll() is None for process in each)
        time.sleep(0.05)
    each[1].send_signal(signal.SIGKILL)
    each[1].wait()
    each[1] = start(folder, stage, 1, 3)
    said = [process.communicate(timeout=300)[1] for process in each]
    assert [process.returncode for process in each] == [0, 0, 0], said
    again = start(folder, stage).communicate(timeout=300)[1]
    assert " 0 stale, 0 to do" in again and "computed" not in again, again


def columns(folder: Path) -> dict[str, str]:
    """The sha256 of every column of every score shard."""
    found = {}
    for path in sorted((folder / "data/scores").glob("*.parquet")):
        table = read_table(path)
        for name in table.column_names:
            found[f"{path.name}/{name}"] = hashlib.sha256(repr(table[name].to_pylist()).encode()).hexdigest()
    return found


def images(folder: Path) -> dict[str, str]:
    paths = sorted((folder / "data/generations").glob("*.parquet"))
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_ranks_with_a_kill_draw_and_score_as_one_process(tmp_path: Path) -> None:
    alone, shared = project(tmp_path / "alone", "local"), project(tmp_path / "shared", "ranks")
    for stage in ("generate", "score"):
        process = start(alone, stage)
        assert process.communicate(timeout=300)[0] is None and process.returncode == 0
        together(shared, stage)
    assert len(images(alone)) >= 12 and images(shared) == images(alone)
    assert columns(shared) == columns(alone)


def test_what_its_launcher_says_wrongly_is_one_line(tmp_path: Path) -> None:
    folder = project(tmp_path / "wrong", "ranks")
    said = start(folder, "generate", rank=3, size=3).communicate(timeout=120)[1]
    last = said.splitlines()[-1]
    assert last.startswith("tgo generate: ") and "rank 3 of 3" in last and "Traceback" not in said
