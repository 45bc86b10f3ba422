"""The table of models against numpy on each part by itself."""

import numpy as np
import polars as pl
import pytest

from tests.evaluation.worlds import MODELS, REWARDS, scores
from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.statistics.diversity import CLIP, PIXELS
from tgo_pipeline.evaluation.statistics.means import MODELS as SCHEMA
from tgo_pipeline.evaluation.statistics.means import Diversity, models_table
from tgo_pipeline.evaluation.statistics.scores import ALL
from tgo_pipeline.params import EvaluateParams

PARAMS = EvaluateParams(bootstrap=200)


def test_means_medians_and_counts_are_those_of_the_scores() -> None:
    world = scores({"tuned": [1, 0, 0]}, missing=0.05)
    table = models_table(world, "target", PARAMS, seed=0)
    assert table.schema.equals(SCHEMA)
    found = table.to_pylist()
    assert len(found) == 3 * 3 * 6  # models, rewards, cells
    for row in found:
        chosen = np.array([row["test_set"] in (ALL, name) for name in world.test_sets])
        if row["category"]:
            chosen &= world.groupings[row["grouping"]] == row["category"]
        column = world.values[MODELS.index(row["model"]), chosen, REWARDS.index(row["reward"])]
        kept = column[~np.isnan(column)]
        assert (row["n"], row["n_missing"]) == (len(kept), len(column) - len(kept))
        assert row["mean"] == pytest.approx(kept.mean()) and row["median"] == pytest.approx(np.median(kept))
        assert row["std"] == pytest.approx(kept.std(ddof=1))
        assert row["mean_low"] < row["mean"] < row["mean_high"]
        assert row["is_target"] == (row["reward"] == "target")
        assert row[CLIP] is row[PIXELS] is None


def test_a_model_without_scores_of_a_reward_has_no_numbers() -> None:
    world = scores()
    world.values[1, :, 2] = np.nan
    row = next(
        row
        for row in models_table(world, None, PARAMS, seed=0).to_pylist()
        if row["model"] == "tuned" and row["reward"] == "oracle"
    )
    assert row["n"] == 0 and row["n_missing"] == 60
    assert [row[name] for name in ("mean", "mean_low", "median", "std")] == [None] * 4


def _diversities(prompts: list[str]) -> dict[str, pl.DataFrame]:
    rng = np.random.default_rng(0)
    return {
        model: pl.DataFrame(
            {
                "prompt_id": prompts,
                "n": [3] * len(prompts),
                PIXELS: rng.random(len(prompts)),
                CLIP: pl.Series([None] * len(prompts), dtype=pl.Float64),
            }
        ).sample(fraction=1, shuffle=True, seed=place)
        for place, model in enumerate(MODELS)
    }


def test_diversity_is_the_mean_over_the_prompts_of_a_part() -> None:
    world = scores()
    prompts = sorted(set(world.prompt_ids))
    frames = _diversities(prompts)
    frames["tuned"] = frames["tuned"].with_columns(
        pl.when(pl.col("prompt_id") == "plain-0").then(None).otherwise(pl.col(PIXELS)).alias(PIXELS)
    )
    table = models_table(world, None, PARAMS, 0, Diversity.join(frames)).to_pylist()
    for row in table:
        if row["test_set"] == "plain":
            values = frames[row["model"]].filter(pl.col("prompt_id").str.starts_with("plain"))[PIXELS]
            assert row[PIXELS] == pytest.approx(values.drop_nulls().mean())
            assert row[f"{PIXELS}_low"] < row[PIXELS] < row[f"{PIXELS}_high"]
            assert row[CLIP] is None


def test_diversities_of_other_prompts_are_refused() -> None:
    frames = _diversities(["a", "b"])
    frames["tuned"] = frames["tuned"].with_columns(pl.Series("prompt_id", ["a", "c"]))
    with pytest.raises(TgoError, match="of other prompts"):
        Diversity.join(frames)
