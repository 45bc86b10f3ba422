"""Trainings of the tiny data set in this process: whole, interrupted by a signal, and what they leave behind."""

from __future__ import annotations

import os
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from fine_tune import noise_levels, stage
from fine_tune.data.tensors import read_tensors
from fine_tune.noise_levels import table
from tests.fine_tune import world
from tgo_pipeline.storage.shards import Interrupted

LITTLE = {(noise_levels, "BINS"): 3, (noise_levels, "BATCHES"): 8, (table, "CLEAR"): -1e9}
"""What makes measuring noise levels short, and gives a range even where the signal is lost in the noise."""
COMPARED = ("loss", "gradient_norm", "reference_point", "log_ratio_positive", "weight_ess", "threshold")


def train(source: Path, root: Path, fine_tune: dict[str, Any]) -> Path:
    """The same training in this process alone, from where it stands."""
    stage.run(world.params(source / "model", **fine_tune), world.workspace(world.joined_places(source, root)))
    return root


def interrupt(source: Path, root: Path, fine_tune: dict[str, Any]) -> None:
    """Begin a training in this process and stop it by a signal after its first steps."""

    def signal_self() -> None:
        while not (root / "training/plots/metrics/train/loss.tsv").is_file():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=signal_self, daemon=True).start()
    with pytest.raises(Interrupted):
        train(source, root, fine_tune)


def trajectory(root: Path) -> dict[str, list[float]]:
    """The logged metrics of every step."""
    files = {name: root / f"training/plots/metrics/train/{name}.tsv" for name in COMPARED}
    return {
        name: [float(line.split("\t")[1]) for line in file.read_text().splitlines()[1:]]
        for name, file in files.items()
        if file.is_file()
    }


def results(root: Path) -> dict[str, torch.Tensor]:
    files = [*root.glob("output/unet/*.safetensors"), *root.glob("output/*.safetensors")]
    return read_tensors(files[0])[0]
