"""Stages on clips that are killed at renames of their files, then run again: the same bytes as an unbroken run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest

from tests.test_video_project import REWARDS, RUNTIME, job
from tests.tiny_families import tiny_wan_pipeline
from tgo_pipeline.generators.stage import generate_folder
from tgo_pipeline.scoring.stage import score_folder

TIMEOUT_S = 600
PRELOAD = ["diffusers.pipelines.wan.pipeline_wan", "tgo_pipeline.rewards.engine.scorer", "transformers"]


def run(model: Path, folder: Path, *, die_at: int | None = None) -> None:
    """Draw clips and score them; with `die_at` until so many files were put into their place."""
    left = die_at

    def watch(event: str, args: tuple[Any, ...]) -> None:
        nonlocal left
        if left is not None and event == "os.rename" and str(args[1]).endswith(".parquet"):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(watch)
    generate_folder(folder / "generations", **job(model), runtime=RUNTIME)
    score_folder(
        folder / "generations",
        folder / "scores",
        REWARDS,
        runtime=RUNTIME,
        max_error_rate=0.0,
        frames=2,
        frame_parts=["last"],
    )


@pytest.fixture(scope="module")
def context() -> Iterator[ForkServerContext]:
    """Fresh processes that have the libraries loaded already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    yield context


def ended(context: ForkServerContext, *arguments: Path, **options: Any) -> int | None:
    process = context.Process(target=run, args=arguments, kwargs=options)
    process.start()
    process.join(TIMEOUT_S)
    return process.exitcode


def test_killed_again_and_again(context: ForkServerContext, tmp_path: Path) -> None:
    model = tiny_wan_pipeline(tmp_path / "model")
    assert ended(context, model, tmp_path / "unbroken") == 0
    killed = tmp_path / "killed"
    for die_at in (2, 2, 2):  # the second shard of clips, the first of scores, the second of scores
        assert ended(context, model, killed, die_at=die_at) == -signal.SIGKILL
    assert ended(context, model, killed) == 0
    files = sorted(path for path in (tmp_path / "unbroken").rglob("*") if path.is_file())
    assert len([file for file in files if file.suffix == ".parquet"]) == 4
    for file in files:
        if file.suffix != ".lock":
            assert (killed / file.relative_to(tmp_path / "unbroken")).read_bytes() == file.read_bytes(), file
