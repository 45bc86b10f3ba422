"""generate, score and the encoding of a training on the small world: with one process and with two."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.gpu.case import Case
from benchmarks.gpu.rewards import FIVE
from tgo_pipeline.generators.stage import generate_folder
from tgo_pipeline.params import GenerateParams, RuntimeParams
from tgo_pipeline.scoring.stage import score_folder
from tgo_pipeline.storage.tables import read_folder

PROMPTS = [(f"p{row:03d}", f"a small red ring on a white background, number {row}") for row in range(64)]
SAMPLING = GenerateParams(steps=6, guidance_scale=2.0, shard_size=64)


def stages(case: Case) -> dict[str, Any]:
    """Seconds of each stage, and what a second process changes of the scores."""
    prompts = PROMPTS if case.full else PROMPTS[:8]
    found: dict[str, Any] = {}
    scores = {}
    with tempfile.TemporaryDirectory() as temporary:
        for processes in (1, 2):
            root = Path(temporary) / str(processes)
            runtime = RuntimeParams(
                device=str(case.device), processes=processes, generate_batch_size=32, workers=2
            )
            began_s = time.perf_counter()
            generate_folder(
                root / "generations",
                prompts,
                split="train",
                model="demo",
                revision=None,
                params=SAMPLING,
                images_per_prompt=4,
                seed=0,
                purpose="generate",
                runtime=runtime,
            )
            found[f"generate, {processes} processes, s"] = time.perf_counter() - began_s
            began_s = time.perf_counter()
            rewards: dict[str, str | None] = dict.fromkeys(FIVE, "demo")
            score_folder(root / "generations", root / "scores", rewards, runtime=runtime, max_error_rate=0.0)
            found[f"score, {processes} processes, s"] = time.perf_counter() - began_s
            scores[processes] = read_folder(root / "scores")["hpsv2.1"].to_numpy()
    found["greatest change with two processes"] = float(np.abs(scores[1] - scores[2]).max())
    return found
