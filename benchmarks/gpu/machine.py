"""What the machine is, whether a training starts on each name of its device, and this project's own GPU tests."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import torch

from benchmarks.gpu.case import Case
from benchmarks.results import hardware
from fine_tune.training.accelerator import Accelerator
from tgo_pipeline.devices import resolve_device
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params.checks import Precision

ROOT = Path(__file__).parents[2]
TOKENS = 256 * 257
"""Rows of the products of ViT-H-14 for 256 images."""
PRODUCTS = ((1280, 3840), (1280, 1280), (1280, 5120), (5120, 1280))
"""Inputs and outputs of its linear layers."""


def machine(case: Case) -> dict[str, Any]:
    """Hardware and libraries; on a GPU its free memory, and the rate of the products of ViT-H-14 in fp16."""
    if not case.full:
        return hardware()
    rates = {}
    for inputs, outputs in PRODUCTS:
        left = torch.randn(TOKENS, inputs, device=case.device, dtype=torch.half)
        weight = torch.randn(outputs, inputs, device=case.device, dtype=torch.half)
        took_s = case.seconds(lambda left=left, weight=weight: torch.nn.functional.linear(left, weight), 10)
        rates[f"{inputs} to {outputs}"] = 2 * TOKENS * inputs * outputs / took_s / 1e12
    return {
        **hardware(),
        "cuda": torch.version.cuda,
        "free_gb": torch.cuda.mem_get_info(case.device)[0] / 1e9,
        "tf32 of convolutions": torch.backends.cudnn.allow_tf32,
        "fp16 Tflop/s of ViT-H-14's products": rates,
    }


def devices(case: Case) -> dict[str, Any]:
    """The device of a training by every name that a user gives it, in each precision."""
    names = ("auto", "cuda", "cuda:0") if case.full else ("cpu",)
    found: dict[str, Any] = {}
    for name in names:
        for precision in get_args(Precision):
            try:
                found[f"{name} {precision}"] = str(Accelerator(precision, resolve_device(name)).device)
            except TgoError as error:
                found[f"{name} {precision}"] = f"refused: {error}"
    return found


def tests(case: Case) -> dict[str, Any]:
    """The tests that are skipped without a GPU."""
    if not case.full:
        return {"skipped": "needs a GPU"}
    places = ("tests/rewards/engine/test_scorer.py", "tests/rewards/engine/test_batching.py")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "", *places],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=max(30.0, case.left_s - 10),
        check=False,
    )
    return {"exit code": done.returncode, "said": done.stdout[-1500:]}
