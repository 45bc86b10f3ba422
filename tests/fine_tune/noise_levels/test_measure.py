"""Measuring on a model: the bins, a kill on the way, and a training that takes its range from it."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from fine_tune.levels import measure_levels
from fine_tune.noise_levels import table
from fine_tune.noise_levels.table import Levels
from tests.fine_tune import runs, world
from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.shards import Interrupted

SMALL = {"batch_size": 4, "steps": 4}
MEASURED = "the first batch is measured"


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    for (module, name), value in runs.LITTLE.items():
        monkeypatch.setattr(module, name, value)
    caplog.set_level(logging.INFO)


def measured(source: Path, root: Path, **fine_tune: object) -> Levels:
    params = world.params(source / "model", **{**SMALL, **fine_tune})
    (found,) = measure_levels(params, world.workspace(world.joined_places(source, root)))
    return found


def test_bins_are_drawn_equally_often_and_nothing_is_measured_twice(source, tmp_path, caplog) -> None:
    found = measured(source, tmp_path)
    edges = [row["low"] for row in found.rows] + [1.0]
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    kept = (1 - betas).cumprod(0)
    alpha, sigma = kept.sqrt(), (1 - kept).sqrt()
    shares = torch.histogram(sigma / (alpha + sigma), torch.tensor(edges, dtype=torch.float64)).hist / 1000
    torch.testing.assert_close(shares, torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.04, rtol=0)
    assert found.about["units"] == 4 and found.suggest(4).low in edges
    assert not (tmp_path / "noise_levels").exists()
    caplog.clear()
    assert measured(source, tmp_path, learning_rate=0.5, steps=9, noise_levels=[0.5, 1.0]) == found
    assert MEASURED not in caplog.text  # what changes nothing before the first update


def test_a_kill_loses_one_batch_at_most(source, tmp_path, caplog) -> None:
    folder = tmp_path / "killed/noise_levels"

    def signal_self() -> None:
        while not list(folder.glob("batch-*.safetensors")):
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=signal_self, daemon=True).start()
    with pytest.raises(Interrupted):
        measured(source, tmp_path / "killed")
    assert 0 < len(list(folder.glob("batch-*.safetensors"))) < 8
    assert measured(source, tmp_path / "killed").rows == measured(source, tmp_path / "whole").rows


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_training_takes_the_range_that_it_measures(source, tmp_path, caplog, method: str) -> None:
    tuning = {**SMALL, "method": method}
    with_auto = runs.train(source, tmp_path / "auto", {**tuning, "noise_levels": "auto"})
    found = table.read(tmp_path / "auto/noise_levels.parquet")
    by_hand = runs.train(source, tmp_path / "hand", {**tuning, "noise_levels": found.suggest(4).levels})
    auto, hand = runs.results(with_auto), runs.results(by_hand)
    assert auto and all(torch.equal(auto[name], hand[name]) for name in auto)
    said = json.loads((tmp_path / "auto/output/tgo.json").read_text())
    assert said.get("noise_levels", [0.0, 1.0]) == found.suggest(4).levels
    assert "noise_levels" in (tmp_path / "auto/training/params.yaml").read_text()
    assert not (tmp_path / "hand/training/params.yaml").exists()


def test_a_training_that_goes_on_does_not_measure_again(source, tmp_path, caplog) -> None:
    tuning = {**SMALL, "steps": 30, "noise_levels": "auto", "checkpoint_every": 30}
    runs.interrupt(source, tmp_path / "broken", tuning)
    assert caplog.text.count(MEASURED) == 1
    runs.train(source, tmp_path / "broken", tuning)
    assert caplog.text.count(MEASURED) == 1 and "resuming after step" in caplog.text
    runs.train(source, tmp_path / "whole", tuning)
    broken, whole = runs.results(tmp_path / "broken"), runs.results(tmp_path / "whole")
    assert all(torch.equal(broken[name], whole[name]) for name in whole)


def test_where_nothing_is_clear_all_levels_stay(source, tmp_path, monkeypatch, caplog) -> None:
    monkeypatch.setattr(table, "CLEAR", 1e9)
    assert measured(source, tmp_path).suggest(4).levels == [0.0, 1.0]
    assert "no signal can be told from noise" in caplog.text


def test_what_cannot_be_trained_cannot_be_measured(source, tmp_path) -> None:
    with pytest.raises(TgoError, match="safeguard"):
        measured(source, tmp_path, objective="sft", safeguard=0.5)
