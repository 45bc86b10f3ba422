"""Sampling on a GPU: Stable Diffusion 1.5 by precision and batch, and the masked model beside a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from benchmarks.gpu.case import Case
from benchmarks.training.architectures import SD15, build_pipeline
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.generators.sample import Sampler, png
from tgo_pipeline.params import GenerateParams

IMAGES = 16
MASKED = GenerateParams(guidance_scale=2.0, steps=6)
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def sampling(case: Case) -> dict[str, Any]:
    """Seconds an image and peak memory by precision, whether runs are equal, and what batches change."""
    steps = 20 if case.full else 2
    params = GenerateParams(guidance_scale=7.5, steps=steps)
    prompts, seeds = [f"a fox number {row}" for row in range(IMAGES)], list(range(IMAGES))
    found: dict[str, Any] = {}
    for precision in HALF if case.full else ("fp32",):
        pipeline = build_pipeline(SD15, "full" if case.full else "toy", case.device).to(HALF[precision])
        pipeline.set_progress_bar_config(disable=True)
        alone, together = (Sampler(pipeline, params, size) for size in (1, IMAGES))
        case.forget()
        first = list(together.images(prompts, seeds))
        took_s = case.seconds(lambda together=together: list(together.images(prompts, seeds)), 1, 0)
        again, ones = list(together.images(prompts, seeds)), list(alone.images(prompts[:2], seeds[:2]))
        found[precision] = {
            f"s per image of {steps} steps": took_s / IMAGES,
            "peak_gb": case.peak_gb,
            "two runs are equal": all(_difference(*pair) == 0 for pair in zip(first, again, strict=True)),
            "levels that the batch size changes": max(
                _difference(*pair) for pair in zip(first, ones, strict=False)
            ),
        }
        found["ms of a PNG"] = 1e3 * case.seconds(lambda first=first: png(first[0]), 5)
        del pipeline, alone, together
        case.forget()
    return {**found, "masked: share of pixels equal to a CPU's": _masked(case)}


def _difference(one: Any, other: Any) -> int:
    return int(np.abs(np.asarray(one, int) - np.asarray(other, int)).max())


def _masked(case: Case) -> float:
    prompts, seeds = ["a small red ring"] * 6, list(range(6))
    here, there = (
        list(Sampler(load_pipeline("demo-masked", device=device), MASKED, 4).images(prompts, seeds))
        for device in (case.device, torch.device("cpu"))
    )
    equal = [np.mean(np.asarray(a) == np.asarray(b)) for a, b in zip(here, there, strict=True)]
    return float(np.mean(equal))
