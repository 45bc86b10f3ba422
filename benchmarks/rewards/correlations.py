"""Rank correlations of the small world's rewards on its own sample, with each other and with the true preference.

    python -m benchmarks.rewards.correlations

The base model draws two images for each of the small world's test captions; its rewards and its oracle score them.
Writes a section of RESULTS.md. Says nothing of the official weights, whose names the toys bear.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import polars as pl
import typer
from scipy.stats import rankdata

from benchmarks.results import RESULTS, described, hardware, replace_section, table
from tgo_pipeline import demo
from tgo_pipeline.demo import world
from tgo_pipeline.generators import generate_folder
from tgo_pipeline.params import GenerateParams, RuntimeParams
from tgo_pipeline.scoring.stage import score_folder

REWARDS = ("hpsv2.1", "pickscore", "imagereward", "clip", "aesthetic", "oracle")
IMAGES_PER_PROMPT = 2
SEED = 0


def scores(folder: Path) -> pl.DataFrame:
    """Scores of the sample, one column of (N,) a reward."""
    runtime = RuntimeParams(device="cpu", threads=1)
    captions = [text for family in world.FAMILIES for text in demo.prompts(family)]
    generate_folder(
        folder / "generations",
        [(f"p{number:05d}", text) for number, text in enumerate(captions)],
        split="train",
        model="demo",
        revision=None,
        params=GenerateParams(images_per_prompt=IMAGES_PER_PROMPT, guidance_scale=2.0, steps=12),
        images_per_prompt=IMAGES_PER_PROMPT,
        seed=SEED,
        purpose="generate",
        runtime=runtime,
    )
    found = folder / "scores"
    score_folder(
        folder / "generations", found, dict.fromkeys(REWARDS, "demo"), runtime=runtime, max_error_rate=0.0
    )
    return pl.read_parquet(found / "*.parquet", columns=list(REWARDS))


def main() -> None:
    """Print the table and write it."""
    with tempfile.TemporaryDirectory() as scratch:
        found = scores(Path(scratch))
    matrix = np.corrcoef(rankdata(found.to_numpy(), axis=0), rowvar=False)
    rows = [[name, *(f"{value:.2f}" for value in row)] for name, row in zip(REWARDS, matrix, strict=True)]
    introduction = (
        f"Spearman's correlation over {len(found)} images: {IMAGES_PER_PROMPT} of each test caption of the small "
        f"world, drawn by its base model (seed {SEED}, guidance 2, 12 steps). `oracle` is the true preference of that "
        "world. These are toys that bear the names of the official rewards (`demo`), and say nothing of those "
        "(`python -m benchmarks.rewards.correlations`)."
    )
    body = "\n\n".join(
        [
            "## How far the small world's rewards agree",
            introduction,
            described(hardware()),
            table(("", *REWARDS), rows),
        ]
    )
    typer.echo(body)
    replace_section(RESULTS, "reward_correlations", body)


if __name__ == "__main__":
    typer.run(main)
