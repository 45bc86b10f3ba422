"""TensorBoard and W&B hear what dvclive hears, once for each step, however often the training was resumed."""

from __future__ import annotations

import io
import json
import struct
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fine_tune.training.log import TrainingLog, image_path
from fine_tune.training.trackers import IMAGES, Run, open_trackers, require
from tgo_pipeline.errors import TgoError

BOTH = ("tensorboard", "wandb")
BLOCK_BYTES, HEADER_BYTES, IDENTITY_BYTES = 32768, 7, 7
FULL, FIRST, LAST = 1, 2, 4


@pytest.fixture(autouse=True)
def quiet_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_MODE", "WANDB_PROJECT", "WANDB_API_KEY", "WANDB_DIR"):
        monkeypatch.delenv(name, raising=False)


def loss(step: int) -> float:
    return 3.0 - step / 8  # a number that single precision has exactly


def train(folder: Path, after: int, last: int, names: tuple[str, ...] = BOTH) -> None:
    """Write the log of the steps after `after`, with validation images at 0 and every third step."""
    run = Run("tgo-0123abcd", {"seed": 7, "fine_tune": {"beta": 0.5}}, folder / "runs")
    with TrainingLog(folder / "training", after, partial(open_trackers, names, run, after)) as log:
        if after == 0:
            draw(log, folder, 0)
        for step in range(after + 1, last + 1):
            log.metrics(step, {"loss": loss(step), "accuracy": 0.5})
            if step % 3 == 0:
                draw(log, folder, step)


def draw(log: TrainingLog, folder: Path, step: int) -> None:
    path = image_path(folder / "training", step)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 4), (step, 20, 30)).save(path)
    log.image(step, path)


def tensorboard(folder: Path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    (run,) = (folder / "runs/tensorboard").iterdir()
    return EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0}).Reload()


def records(folder: Path) -> Iterator:
    """The records of the one W&B run, by the format of its file: blocks of a log, each record a protocol buffer.

    W&B's own process writes the file; it is whole when that has ended, as it does with the training's.
    """
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    wandb.teardown()
    (path,) = (folder / "runs/wandb").glob("offline-run-*/*.wandb")
    data, position, pending = path.read_bytes(), IDENTITY_BYTES, b""
    while position + HEADER_BYTES <= len(data):
        left = BLOCK_BYTES - position % BLOCK_BYTES
        if left < HEADER_BYTES:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + HEADER_BYTES])
        part = data[position + HEADER_BYTES : position + HEADER_BYTES + length]
        pending = part if kind in (FULL, FIRST) else pending + part
        position += HEADER_BYTES + length
        if kind in (FULL, LAST):
            record = Record()
            record.ParseFromString(pending)
            yield record


def history(folder: Path) -> list[dict]:
    """What each row of the W&B run holds, by its whole name."""
    rows = [record.history for record in records(folder) if record.HasField("history")]
    return [
        {".".join(item.nested_key) or item.key: json.loads(item.value_json) for item in row.item}
        for row in rows
    ]


@pytest.fixture(scope="module")
def resumed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that was killed after step 8, with its last checkpoint at step 5, and then ended at step 10."""
    folder = tmp_path_factory.mktemp("resumed")
    train(folder, 0, 8)
    train(folder, 5, 10)
    return folder


def test_tensorboard_has_every_step_once(resumed: Path) -> None:
    events = tensorboard(resumed)
    assert set(events.Tags()["scalars"]) == {"train/loss", "train/accuracy"}
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [
        (step, loss(step)) for step in range(1, 11)
    ]
    (text,) = events.Tensors("params/text_summary")
    assert '"beta": 0.5' in text.tensor_proto.string_val[0].decode()


def test_tensorboard_has_the_validation_images(resumed: Path) -> None:
    events = tensorboard(resumed).Images(IMAGES)
    assert [event.step for event in events] == [0, 3, 6, 9]
    pixels = np.asarray(Image.open(io.BytesIO(events[2].encoded_image_string)))
    assert pixels.shape == (4, 8, 3)
    assert (pixels == (6, 20, 30)).all()


def test_wandb_has_every_step_once_in_one_run(resumed: Path) -> None:
    rows = history(resumed)
    losses = [(row["_step"], row["train/loss"]) for row in rows if "train/loss" in row]
    assert losses == [(step, loss(step)) for step in range(1, 11)]
    assert [row["_step"] for row in rows] == list(range(11))


def test_wandb_has_the_validation_images_and_the_parameters(resumed: Path) -> None:
    images = {row["_step"]: row for row in history(resumed) if any(key.startswith(IMAGES) for key in row)}
    assert list(images) == [0, 3, 6, 9]
    files = (resumed / "runs/wandb").glob("offline-run-*/files/media/images/*_6_*.png")
    assert (np.asarray(Image.open(next(files))) == (6, 20, 30)).all()
    run = next(record.run for record in records(resumed) if record.HasField("run"))
    assert run.run_id == "tgo-0123abcd"
    assert {item.key: json.loads(item.value_json) for item in run.config.update}["seed"] == 7


def test_wandb_notes_neither_the_code_nor_the_repository_nor_the_packages(resumed: Path) -> None:
    run = next(record.run for record in records(resumed) if record.HasField("run"))
    assert not run.git.remote_url
    kept = {path.name for path in (resumed / "runs/wandb").glob("offline-run-*/files/*") if path.is_file()}
    assert not kept & {"wandb-metadata.json", "requirements.txt", "output.log", "diff.patch"}


def test_a_tracker_added_to_a_training_under_way_gets_its_past(tmp_path: Path) -> None:
    train(tmp_path, 0, 4, names=())
    train(tmp_path, 4, 6, names=("wandb",))
    assert [row["_step"] for row in history(tmp_path)] == list(range(7))


def test_a_training_that_starts_over_has_no_past(tmp_path: Path) -> None:
    train(tmp_path, 0, 5, names=("tensorboard",))
    train(tmp_path, 0, 2, names=("tensorboard",))
    assert [event.step for event in tensorboard(tmp_path).Scalars("train/loss")] == [1, 2]


def test_a_training_that_starts_over_tells_trackers_nothing_of_the_one_before(tmp_path: Path) -> None:
    train(tmp_path, 0, 5, names=())
    train(tmp_path, 0, 2, names=("wandb",))
    assert [row["_step"] for row in history(tmp_path)] == [0, 1, 2]


def test_a_synced_run_stays_as_it_is(tmp_path: Path) -> None:
    train(tmp_path, 0, 2, names=("wandb",))
    (run,) = (tmp_path / "runs/wandb").glob("offline-run-*")
    (run / "run-tgo-0123abcd.wandb.synced").touch()
    kept = run.rename(run.with_name("offline-run-20200101_000000-tgo-0123abcd"))
    train(tmp_path, 1, 3, names=("wandb",))
    assert kept.is_dir()


@pytest.mark.parametrize("name", BOTH)
def test_a_missing_package_is_named_with_the_extra_that_has_it(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        TgoError, match=rf"{name}, which is not installed: pip install 'tgo-pipeline\[tracking\]'"
    ):
        require(BOTH)


def test_an_unknown_mode_of_wandb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "sideways")
    with pytest.raises(TgoError, match="WANDB_MODE=sideways"):
        train(tmp_path, 0, 1, names=("wandb",))
