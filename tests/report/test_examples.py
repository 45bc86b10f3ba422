from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from tests.report.workspace import Workspace
from tgo_pipeline.errors import TgoError
from tgo_pipeline.report.examples import ExamplePairs, Examples, examples, pairs
from tgo_pipeline.report.thumbnails import Album
from tgo_pipeline.storage import tables


def _examples(workspace: Workspace, how_many: int = 8) -> Examples:
    found = examples(workspace.sources.labels, workspace.sources.generations, how_many, Album())
    assert found is not None
    return found


def _pairs(workspace: Workspace) -> ExamplePairs:
    found = pairs(workspace.params, workspace.sources, ["mean_z", "oracle"], Album())
    assert found is not None
    return found


def test_examples_are_the_extremes_of_their_prompts(workspace: Workspace) -> None:
    found = _examples(workspace)
    frame = tables.read_folder(workspace.sources.labels)
    best = frame.group_by("prompt_id").agg(pl.col("score").max()).sort("score", descending=True)["score"]
    worst = frame.group_by("prompt_id").agg(pl.col("score").min()).sort("score")["score"]
    nearest = frame.group_by("prompt_id").agg(pl.col("relative_score").abs().min()).sort("relative_score")
    assert [example.score for example in found.best] == best.head(8).to_list()
    assert [example.score for example in found.worst] == worst.head(8).to_list()
    shown = [abs(example.relative_score) for example in found.nearest]
    assert np.allclose(shown, nearest["relative_score"].head(8))


def test_examples_carry_their_own_label_prompt_and_image(workspace: Workspace) -> None:
    found = _examples(workspace)
    prompts = dict(tables.read_folder(workspace.sources.generations, ["sample_id", "prompt"]).iter_rows())
    for example in (*found.best, *found.worst, *found.nearest):
        assert example.prompt == prompts[example.sample_id]
        assert example.label == (example.relative_score >= 0)
        assert example.thumbnail.source is not None


def test_a_prompt_appears_once_in_a_row_of_examples(workspace: Workspace) -> None:
    found = _examples(workspace, how_many=20)
    for row in (found.best, found.worst, found.nearest):
        assert len(row) == len({example.prompt for example in row}) == 20


def test_pairs_follow_their_rule(workspace: Workspace) -> None:
    found = _pairs(workspace)
    samples = pl.read_parquet(workspace.sources.samples).filter(pl.col("reward") == "mean_z")
    differences = (samples["tuned"] - samples["base"]).to_numpy()
    assert [pair.difference for pair in found.gains] == sorted(differences[differences > 0], reverse=True)[:4]
    assert [pair.difference for pair in found.losses] == sorted(differences[differences < 0])[:4]
    assert len({pair.sample_id for pair in found.drawn}) == 4
    assert (found.total, found.gained) == (len(samples), int((differences > 0).sum()))
    assert found.gained + found.lost <= found.total
    assert np.allclose(found.differences["mean_z"], differences)


def test_the_two_images_of_a_pair_are_of_the_two_models(workspace: Workspace) -> None:
    for pair in _pairs(workspace).drawn:
        assert pair.base.source and pair.tuned.source and pair.base.source != pair.tuned.source
        assert pair.difference == pair.scores["mean_z"][1] - pair.scores["mean_z"][0]
        assert set(pair.scores) == {"mean_z", "oracle"}


def test_the_draw_hangs_on_the_seed_alone(workspace: Workspace) -> None:
    def drawn(seed: int, how_many: int) -> list[str]:
        report = dataclasses.replace(workspace.params.report, pairs=how_many)
        params = dataclasses.replace(workspace.params, seed=seed, report=report)
        found = pairs(params, workspace.sources, ["mean_z"], Album())
        assert found is not None
        return [pair.sample_id for pair in found.drawn]

    assert drawn(7, 12) == drawn(7, 12)
    assert drawn(7, 24)[:4] == drawn(7, 12)
    assert drawn(8, 12) != drawn(7, 12)


def test_one_pair_is_a_random_one(workspace: Workspace) -> None:
    report = dataclasses.replace(workspace.params.report, pairs=1)
    params = dataclasses.replace(workspace.params, report=report)
    found = pairs(params, workspace.sources, ["mean_z"], Album())
    assert found is not None
    assert (len(found.drawn), len(found.gains), len(found.losses)) == (1, 0, 0)


def test_samples_of_another_schema_are_refused(workspace: Workspace, tmp_path: Path) -> None:
    pl.DataFrame({"reward": ["mean_z"], "base": [1.0]}).write_parquet(tmp_path / "samples.parquet")
    sources = workspace.sources.moved(evaluation_images=tmp_path)
    with pytest.raises(TgoError, match="has no column 'sample_id'"):
        pairs(workspace.params, sources, ["mean_z"], Album())
