"""Processes that are really killed or stopped, then run again, against one that never was."""

from __future__ import annotations

import hashlib
import logging
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save

from fine_tune import stage
from fine_tune.data.tensors import read_tensors
from tests.fine_tune import world
from tgo_pipeline.params import Params
from tgo_pipeline.storage.shards import Interrupted

TIMEOUT_S = 120
STOPPED = 130
KEPT = ("model", "training", "encoded")
PRELOAD = [
    "diffusers.pipelines.stable_diffusion",
    "dvc.repo",
    "dvclive.live",
    "fine_tune.training.loop",
    "fine_tune.policies.diffusion",
    "fine_tune.training.trainer",
    "fine_tune.training.validation",
    "transformers.models.clip.modeling_clip",
    "transformers.models.clip.tokenization_clip",
]
Places = dict[str, Path]


def run(params: Params, places: Places) -> None:
    """A process that runs the stage as the command line does."""
    try:
        stage.run(params, world.workspace(places))
    except Interrupted:
        sys.exit(STOPPED)


def run_and_die(
    params: Params, places: Places, event: str, part: str, count: int, sent: int = signal.SIGKILL
) -> None:
    """A process that sends itself a signal at the `count`-th file-system event on a path that holds `part`."""
    left = count

    def watch(name: str, args: tuple[Any, ...]) -> None:
        nonlocal left
        if name == event and part in " ".join(str(arg) for arg in args):
            left -= 1
            if left == 0:
                os.kill(os.getpid(), sent)

    sys.addaudithook(watch)
    run(params, places)


@pytest.fixture(scope="module")
def context() -> Iterator[ForkServerContext]:
    """Fresh processes that have the libraries loaded already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    yield context


@pytest.fixture(scope="module")
def params(source: Path) -> Params:
    """Everything that could get out of step: partial epochs, dropout of captions, a schedule, images, parts."""
    return world.params(
        source / "model",
        steps=7,
        batch_size=10,
        checkpoint_every=2,
        caption_dropout=0.3,
        schedule="cosine",
        warmup_steps=2,
        validation={"every": 3, "prompts": 1},
    )


@pytest.fixture(scope="module")
def unbroken(
    source: Path, params: Params, context: ForkServerContext, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    places = world.places(tmp_path_factory.mktemp("unbroken"))
    places |= {name: world.places(source)[name] for name in ("labels", "generations", "prompts")}
    process = context.Process(target=run, args=(params, places))
    process.start()
    process.join(TIMEOUT_S)
    assert process.exitcode == 0
    return digests(places)


def digests(places: Places) -> dict[str, str]:
    """The content of everything a training leaves behind."""
    files = [file for name in KEPT for file in places[name].rglob("*") if file.is_file()]
    return {str(file.relative_to(places["model"].parent)): digest(file) for file in files}


def digest(file: Path) -> str:
    """Of the bytes; of safetensors without their metadata, which the library writes in any order."""
    data = file.read_bytes()
    if file.suffix == ".safetensors":
        tensors, metadata = read_tensors(file)
        data = save(tensors) + repr(sorted(metadata.items())).encode()
    return hashlib.sha256(data).hexdigest()


def finish(context: ForkServerContext, params: Params, places: Places, expected: dict[str, str]) -> None:
    process = context.Process(target=run, args=(params, places))
    process.start()
    process.join(TIMEOUT_S)
    assert process.exitcode == 0
    assert digests(places) == expected
    assert not places["checkpoints"].exists()
    assert not list(places["model"].parent.rglob(".tmp-*"))


KILLS = [
    ("open", "train-00001-of-00002.safetensors", 1),  # while encoding
    ("os.rename", "step-00002", 1),  # the first checkpoint is complete but not in its place
    ("os.rename", "step-00003.png", 1),  # while an image is written
    ("open", "gradient_norm.tsv", 1),  # among the metrics of a step
    ("open", "log_ratios.csv", 4),  # between metrics and checkpoint
    ("shutil.rmtree", "step-00002", 1),  # two checkpoints are there
    ("os.rename", "-output", 1),  # trained and saved, not in its place
    ("shutil.rmtree", "checkpoints", 1),  # in its place, checkpoint not removed
]


def test_killed_again_and_again(
    context: ForkServerContext, params: Params, places: Places, unbroken: dict[str, str]
) -> None:
    for event, part, count in KILLS:
        process = context.Process(target=run_and_die, args=(params, places, event, part, count))
        process.start()
        process.join(TIMEOUT_S)
        assert process.exitcode == -signal.SIGKILL, part
    finish(context, params, places, unbroken)


def test_stopped_by_a_signal_then_run_again(
    context: ForkServerContext, params: Params, places: Places, unbroken: dict[str, str]
) -> None:
    at = (params, places, "os.rename", "step-00002", 1, signal.SIGTERM)
    process = context.Process(target=run_and_die, args=at)
    process.start()
    process.join(TIMEOUT_S)
    assert process.exitcode == STOPPED
    assert len(list(places["checkpoints"].glob("step-*/state.json"))) == 1
    assert not places["model"].exists()
    finish(context, params, places, unbroken)


def test_other_parameters_do_not_resume(
    context: ForkServerContext, params: Params, source: Path, places: Places, caplog: pytest.LogCaptureFixture
) -> None:
    process = context.Process(target=run_and_die, args=(params, places, "os.rename", "step-00004", 1))
    process.start()
    process.join(TIMEOUT_S)
    other = world.params(source / "model", steps=1)
    inputs = {name: places[name] for name in ("labels", "generations", "model", "checkpoints")}
    assert stage.progress(params, world.workspace(inputs)).step == 2
    with caplog.at_level(logging.INFO, "tgo"):
        stage.run(other, world.workspace(places))
    assert "discarding" in caplog.text and "resuming" not in caplog.text
