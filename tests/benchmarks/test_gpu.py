"""The check of a GPU, dry: every section runs on a CPU with small networks, and a failure of one is said."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.gpu import reward_model
from tests.project import ROOT, environment


def check(out: Path, *sections: str) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.gpu", "--device", "cpu", "--out", str(out), "--only", *sections],
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads((out / "results.json").read_text())


def test_sections_run_without_a_gpu(tmp_path: Path) -> None:
    found = check(tmp_path, "machine", "devices", "training", "frozen weights", "reward numbers")
    assert found["machine"]["accelerator"] == "none"
    assert found["devices"]["cpu fp32"] == "cpu" and "needs a GPU" in found["devices"]["cpu fp16"]
    trained = found["training"]["lora, bf16"]
    assert trained["log-ratio before the first update"] == 0.0
    assert trained["losses"] == pytest.approx(trained["losses after resuming"], rel=1e-6)
    assert found["reward numbers"]["fp32: two runs are equal to the bit"]


def test_the_model_of_the_rewards_gives_what_fused_blocks_are_worth() -> None:
    """962 G operations an image; 465 images a second on an H200 as they are, 530 with fused blocks alone."""
    assert reward_model.flops() == pytest.approx(sum_of_products(), rel=0.1)
    eager, fused = (1 / reward_model.seconds(reward_model.GPUS["H200"], each)[0] for each in (False, True))
    assert 440 < eager < 490 and 500 < fused < 600


def sum_of_products() -> float:
    """The image towers by their parameters: two operations for each parameter and token."""
    sizes = ((630e6, 257, 2), (303e6, 257, 1), (303e6, 197, 1))
    return sum(2 * parameters * tokens * count for parameters, tokens, count in sizes)
