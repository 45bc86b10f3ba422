"""From a csv of star ratings alone, with no reward model, through `dvc repro` to a model that the oracle prefers."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

from tests.project import copy_project, run
from tgo_pipeline import demo
from tgo_pipeline.demo import world
from tgo_pipeline.demo.oracle import oracle

PROMPTS, PER_PROMPT, RATERS, RATINGS = 64, 4, 6, 3
PARAMS = {
    "prompts": {"train": "ratings/ratings.csv", "test": {"plain": "demo:plain"}, "limit": None},
    "generate": {
        "source": "images",
        "images": "ratings/ratings.csv",
        "guidance_scale": 1.0,
        "steps": 8,
        "shard_size": 256,
    },
    "score": {
        "rewards": {},
        "feedback": {
            "stars": {
                "source": "ratings/ratings.csv",
                "kind": "rating",
                "rater": "rater",
                "low": 1,
                "high": 5,
                "aggregate": "shrunk",
            }
        },
    },
    "target": {"reward": "stars"},
    "fine_tune": {
        "steps": 24,
        "batch_size": 32,
        "temperature": 0.01,
        "learning_rate": 8.0e-5,
        "checkpoint_every": 100,
        "validation": {"every": 100, "prompts": 1},
    },
    "evaluate": {"images_per_prompt": 1, "rewards": {"oracle": "demo"}, "bootstrap": 1000},
}


def write_ratings(folder: Path, seed: int = 0) -> None:
    """Images of the small world, spoilt as in the wild, and what a few raters of different kindness think of them.

    A rater sees how an image ranks for the oracle, adds a bias and noise, and rounds to 1 to 5 stars.
    """
    rng = np.random.default_rng(seed)
    captions = [
        caption for caption in rng.permutation(demo.prompts("train"))[:PROMPTS] for _ in range(PER_PROMPT)
    ]
    images = world.images(captions, seed)
    ranks = np.argsort(np.argsort(oracle(images, captions))) / len(captions)
    bias = rng.normal(0, 0.8, RATERS)
    folder.mkdir(parents=True)
    with (folder / "ratings.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["file_name", "prompt", "rating", "rater"])
        for number, (caption, image, rank) in enumerate(zip(captions, images, ranks, strict=True)):
            Image.fromarray(image).save(folder / f"{number}.png")
            for rater in rng.choice(RATERS, RATINGS, replace=False):
                stars = np.clip(round(1.5 + 3 * rank + bias[rater] + rng.normal(0, 0.5)), 1, 5)
                table.writerow([f"{number}.png", caption, int(stars), f"rater {rater}"])


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project after `dvc repro` on star ratings."""
    folder = copy_project(tmp_path_factory.mktemp("stars") / "project", **PARAMS)
    write_ratings(folder / "ratings")
    run(folder, "dvc", "repro")
    return folder


def test_the_oracle_prefers_the_model_that_stars_tuned(project: Path) -> None:
    table = pl.read_parquet(project / "data/evaluation.parquet")
    row = table.filter((pl.col("reward") == "oracle") & (pl.col("test_set") == "all")).row(0, named=True)
    assert row["difference_low"] > 0
    assert row["win_rate_low"] > 0.5
    assert not table["is_target"].any()  # nobody rated the new images


def test_what_was_rated_is_counted(project: Path) -> None:
    stars = json.loads((project / "metrics/score.json").read_text())["stars"]
    images = PROMPTS * PER_PROMPT
    assert (stars["rows"], stars["images"], stars["raters"]) == (RATINGS * images, images, RATERS)
    assert (stars["n"], stars["null"], stars["images_not_generated"]) == (images, 0, 0)
    shown = json.loads(run(project, "dvc", "metrics", "show", "--json").stdout)[""]["data"]
    assert shown["metrics/score.json"]["data"]["stars"]["n"] == images


def test_raters_of_different_kindness_are_set_straight(project: Path) -> None:
    rows = pl.read_csv(project / "ratings/ratings.csv")
    plain = rows.group_by("file_name").agg(pl.col("rating").mean())
    generations = pl.read_parquet(project / "data/generations/*.parquet")
    pixels = np.stack([np.asarray(image) for image in map(_image, generations["image"])])
    truth = generations.select("sample_id", file_name="image_uid").with_columns(
        truth=oracle(pixels, generations["prompt"].to_list())
    )
    scores = pl.read_parquet(project / "data/scores/*.parquet").select("sample_id", "stars")
    found = truth.join(scores, on="sample_id").join(plain, on="file_name")
    ranks = found.select(
        pl.corr("truth", name, method="spearman").alias(name) for name in ("stars", "rating")
    )
    assert ranks["stars"][0] > ranks["rating"][0]


def _image(stored: dict[str, bytes]) -> Image.Image:
    import io

    return Image.open(io.BytesIO(stored["bytes"]))
