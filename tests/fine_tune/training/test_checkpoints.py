"""Folders that are complete or not there, and which checkpoint is gone on from."""

from __future__ import annotations

import logging
import threading
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from fine_tune import stage
from fine_tune.training.checkpoints import Checkpoints, State, latest_step
from fine_tune.training.trainer import Trainer, Update
from tests.fine_tune import world
from tests.rewriting import shown
from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.shards import Mark
from tgo_pipeline.storage.writing import atomic_folder, sweep_temporaries

FULL = "Error while serializing: I/O error: No space left on device (os error 28)"
"""What safetensors says on a full tmpfs."""


def state(step: int) -> State:
    return State(step, {"w": torch.full((3,), float(step))}, {"exp_avg.w": torch.ones(3)}, {"scale": 2.0})


def test_a_checkpoint_comes_back(tmp_path: Path) -> None:
    Checkpoints(tmp_path / "c", Mark("mark")).save(state(7))
    loaded = Checkpoints(tmp_path / "c", Mark("mark")).load()
    assert loaded is not None
    assert loaded.step == 7 and loaded.scaler == {"scale": 2.0}
    assert loaded.weights["w"].tolist() == [7.0] * 3 and loaded.optimizer["exp_avg.w"].tolist() == [1.0] * 3


def test_a_checkpoint_before_the_first_update_comes_back(tmp_path: Path) -> None:
    """With fp16 the first steps may overflow, and change nothing: there are no moments yet."""
    Checkpoints(tmp_path, Mark("mark")).save(State(1, {"w": torch.ones(3)}, {}, {"scale": 2.0}))
    loaded = Checkpoints(tmp_path, Mark("mark")).load()
    assert loaded is not None and loaded.optimizer == {} and loaded.weights["w"].tolist() == [1.0] * 3


def test_only_the_newest_is_kept(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, Mark("mark"))
    for step in (2, 4, 100000):
        checkpoints.save(state(step))
        assert [path.name for path in tmp_path.iterdir()] == [f"step-{step:05d}"]
    loaded = checkpoints.load()
    assert loaded is not None and loaded.step == latest_step(tmp_path, Mark("mark")) == 100000
    checkpoints.clear()
    assert not tmp_path.exists()


def test_the_newest_complete_one_is_loaded(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, Mark("mark"))
    checkpoints.save(state(2))
    (tmp_path / "step-00004").mkdir()  # no state: not written here
    (tmp_path / ".tmp-1-step-00006").mkdir()
    loaded = checkpoints.load()
    assert loaded is not None and loaded.step == 2
    assert [path.name for path in tmp_path.iterdir()] == ["step-00002"]


def test_a_checkpoint_of_another_training_is_discarded_with_a_word(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Checkpoints(tmp_path, Mark("mark")).save(state(2))
    assert latest_step(tmp_path, Mark("other")) == 0
    with caplog.at_level(logging.INFO, "tgo"):
        assert Checkpoints(tmp_path, Mark("other")).load() is None
    assert "discarding" in caplog.text and "other parameters" in caplog.text
    assert not list(tmp_path.iterdir())


def test_without_checkpoint_there_is_nothing_to_load(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "none", Mark("mark")).load() is None
    assert latest_step(tmp_path / "none", Mark("mark")) == 0


def test_a_folder_is_replaced_as_a_whole(tmp_path: Path) -> None:
    for content in ("old", "new"):
        with atomic_folder(tmp_path / "out") as temporary:
            (temporary / content).write_text(content)
    assert shown(tmp_path / "out") == ["new"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    with atomic_folder(tmp_path / "out") as temporary:
        (temporary / "kept").write_text("")
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "out") as temporary:
        (temporary / "half").write_text("")
        raise ZeroDivisionError
    assert shown(tmp_path / "out") == ["kept"]
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path) -> None:
    with pytest.raises(TgoError, match="the disk is full"), atomic_folder(tmp_path / "out") as temporary:
        (temporary / "file").symlink_to("/dev/full")
        (temporary / "file").write_text("x" * 10_000_000)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_known_from_safetensors_too(tmp_path: Path) -> None:
    with pytest.raises(TgoError, match="the disk is full"), atomic_folder(tmp_path / "out"):
        raise SafetensorError(FULL)
    with pytest.raises(SafetensorError, match="other"), atomic_folder(tmp_path / "out"):
        raise SafetensorError("other")
    assert not list(tmp_path.iterdir())


def test_leftovers_are_swept(tmp_path: Path) -> None:
    for name in (".tmp-12-out", ".tmp-12-previous-out", ".tmp-12-another"):
        (tmp_path / name).mkdir()
    sweep_temporaries(tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [".tmp-12-another"]


def test_a_full_disk_keeps_the_checkpoint_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    checkpoints = Checkpoints(tmp_path, Mark("mark"))
    checkpoints.save(state(2))

    def full(*_: object) -> None:
        raise SafetensorError(FULL)

    monkeypatch.setattr("fine_tune.data.tensors.save_file", full)
    with pytest.raises(TgoError, match="the disk is full"):
        checkpoints.save(state(4))
    assert [path.name for path in tmp_path.iterdir()] == ["step-00002"]


def test_training_goes_on_while_a_checkpoint_is_written(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first one is not written before the update after it is done, which does not change what it holds."""
    save, update, updated = Checkpoints.save, Trainer.update, threading.Event()
    held: dict[int, dict[str, torch.Tensor]] = {}
    weights: dict[int, dict[str, torch.Tensor]] = {}

    def watched(trainer: Trainer) -> Update:
        done = update(trainer)
        weights[trainer.step] = {name: tensor.clone() for name, tensor in trainer._trained.items()}
        if trainer.step == 3:
            updated.set()
        return done

    def slow(checkpoints: Checkpoints, state: State) -> None:
        assert updated.wait(60)
        held[state.step] = state.weights
        save(checkpoints, state)

    monkeypatch.setattr(Trainer, "update", watched)
    monkeypatch.setattr(Checkpoints, "save", slow)
    params = world.params(source / "model", steps=4, checkpoint_every=2)
    stage.run(params, world.workspace(world.joined_places(source, tmp_path)))
    assert held.keys() == {2, 4}
    for step, tensors in held.items():
        assert all(torch.equal(tensor, weights[step][name]) for name, tensor in tensors.items())


def test_a_checkpoint_that_cannot_be_written_ends_the_training_soon(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    failed, steps = threading.Event(), []
    update = Trainer.update

    def watched(trainer: Trainer) -> Update:
        assert trainer.step < 2 or failed.wait(60)
        steps.append(trainer.step)
        return update(trainer)

    def full(*_: object) -> None:
        failed.set()
        raise TgoError("the disk is full")

    monkeypatch.setattr(Trainer, "update", watched)
    monkeypatch.setattr(Checkpoints, "save", full)
    params = world.params(source / "model", steps=9, checkpoint_every=2)
    with pytest.raises(TgoError, match="the disk is full"):
        stage.run(params, world.workspace(world.joined_places(source, tmp_path)))
    assert steps[:2] == [0, 1] and len(steps) <= 4
