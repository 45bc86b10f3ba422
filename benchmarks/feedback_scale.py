"""How long a million rows of feedback take, for every rule: writes files of Pick-a-Pic's shape and reads them back.

OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 python -m benchmarks.feedback_scale
"""

from __future__ import annotations

import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import typer

from tgo_pipeline.feedback.scores import image_scores
from tgo_pipeline.params.feedback import FeedbackParams

PER_PROMPT = 15
RULES = ("any_win", "wins", "win_rate", "wins_minus_losses", "bradley_terry")
AGGREGATES = ("mean", "median", "shrunk")


def names(codes: np.ndarray) -> pl.Series:
    """Names as long as Pick-a-Pic's uids."""
    return pl.Series(codes).cast(pl.String).str.zfill(8) + "-9e1c-4366-82c7-aa5977b06375"


def write_pairs(path: Path, rows: int, rng: np.random.Generator) -> None:
    """Choices among images of one prompt, 12 % of them ties, by Bradley and Terry's model."""
    prompts = rng.integers(0, max(1, rows // 16), rows) * PER_PROMPT
    one = rng.integers(0, PER_PROMPT, rows)
    other = (one + rng.integers(1, PER_PROMPT, rows)) % PER_PROMPT
    first, second = prompts + one, prompts + other
    strength = rng.normal(size=prompts.max() + PER_PROMPT)
    choice = (rng.random(rows) < 1 / (1 + np.exp(strength[second] - strength[first]))).astype(float)
    choice[rng.random(rows) < 0.12] = 0.5
    pl.DataFrame(
        {"image_0_uid": names(first), "image_1_uid": names(second), "label_0": choice}
    ).write_parquet(path)


def write_ratings(path: Path, rows: int, rng: np.random.Generator) -> None:
    """About three ratings an image, 200 a rater."""
    images, raters = rng.integers(0, max(1, rows // 3), rows), rng.integers(0, max(1, rows // 200), rows)
    stars = rng.integers(1, 6, rows)
    pl.DataFrame({"file_name": names(images), "rating": stars, "rater": pl.Series(raters)}).write_csv(path)


def measure(name: str, **keys: Any) -> None:
    """Seconds of processor time for one column, from file to scores, and the most memory so far."""
    start_s = time.process_time()
    found = image_scores(FeedbackParams(**keys))
    seconds = time.process_time() - start_s
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    typer.echo(f"{name:18s} {seconds:6.2f} s  {len(found.images):9,} images  {peak_gb:5.2f} GB")


def main(rows: int = 1_000_000) -> None:
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        pairs, ratings = Path(folder) / "pairs.parquet", Path(folder) / "ratings.csv"
        write_pairs(pairs, rows, rng)
        write_ratings(ratings, rows, rng)
        for rule in RULES:
            measure(rule, source=str(pairs), kind="pair", rule=rule)
        for aggregate in AGGREGATES:
            measure(aggregate, source=str(ratings), kind="rating", rater="rater", aggregate=aggregate)


if __name__ == "__main__":
    typer.run(main)
