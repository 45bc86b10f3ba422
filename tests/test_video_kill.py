"""`kill -9` at every long stage of a project of clips, then `dvc repro`: the same bytes as an unbroken run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.project import copy_project, run
from tests.test_kill import count, kill_stage, newest_step
from tests.tiny_families import tiny_wan_pipeline
from tgo_pipeline.storage.tables import read_folder

SIZE = {"width": 16, "height": 16, "frames": 5, "fps": 8}
BYTES = (
    "data/generations/*.parquet",
    "models/tuned/*.safetensors",
    "data/evaluation/*/generations/*.parquet",
)
TABLES = ("data/scores", "data/labels")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of a tiny Wan in which nothing has run."""
    root = tmp_path_factory.mktemp("video")
    return copy_project(
        root / "project",
        model=str(tiny_wan_pipeline(root / "model")),
        generate={**SIZE, "images_per_prompt": 2, "guidance_scale": 3.0, "steps": 2, "shard_size": 2},
        score={"rewards": {"pickscore": "demo", "motion": None}, "frames": 2, "frame_parts": ["last"]},
        target={"reward": "pickscore"},
        fine_tune={
            "preset": "none",
            "method": "lora",
            "steps": 12,
            "batch_size": 4,
            "learning_rate": 0.01,
            "checkpoint_every": 1,
        },
        evaluate={"images_per_prompt": 2, "bootstrap": 50, "rewards": {}},
        runtime={"device": "cpu", "threads": 1, "generate_batch_size": 2},
    )


def test_a_project_of_clips_that_is_killed_ends_with_the_same_bytes(project: Path, tmp_path: Path) -> None:
    unbroken, killed = tmp_path / "unbroken", tmp_path / "killed"
    for folder in (unbroken, killed):
        shutil.copytree(project, folder)
    run(unbroken, "dvc", "repro")
    kill_stage(killed, "generate", lambda: count(killed, "data/generations/*.parquet") >= 2, "generate")
    kill_stage(killed, "score", lambda: count(killed, "data/scores/*.parquet") >= 1, "score")
    for step in (2, 7):
        kill_stage(killed, "fine_tune", lambda n=step: newest_step(killed) >= n, "fine_tune")
    tuned = "data/evaluation/*/generations/*.parquet"
    kill_stage(killed, "evaluate", lambda: count(killed, tuned) >= 1, "evaluate")
    run(killed, "dvc", "repro")
    for pattern in BYTES:
        files = sorted(unbroken.glob(pattern))
        assert files, pattern
        assert count(killed, pattern) == len(files)
        for file in files:
            assert (killed / file.relative_to(unbroken)).read_bytes() == file.read_bytes(), file
    for table in TABLES:
        assert read_folder(killed / table).equals(read_folder(unbroken / table))
    for page in ("report.html", "data/evaluation.parquet"):
        assert (killed / page).read_bytes() == (unbroken / page).read_bytes()
