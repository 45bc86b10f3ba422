"""Values of the command line in place of those of the parameter file."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.project import ROOT
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import load_params
from tgo_pipeline.params.overrides import note, noted
from tgo_pipeline.storage.workspace import Workspace

PARAMS = ROOT / "params.yaml"


def test_values_have_the_types_of_the_schema():
    params = load_params(
        PARAMS,
        [
            "fine_tune.learning_rate=1e-5",
            "label.c=2",
            "fine_tune.lora.rank=4",
            "fine_tune.method=lora",
            "target={reward: clip}",
            "runtime.trackers=[wandb]",
            "generate.guidance.positive=models/p",
            "generate.guidance.kind=pgd",
            "evaluate.models.x=models/x",
        ],
    )
    assert params.fine_tune.learning_rate == 1e-5
    assert params.label.c == 2.0 and isinstance(params.label.c, float)
    assert (params.fine_tune.lora.rank, params.fine_tune.method) == (4, "lora")
    assert params.target.reward == "clip"
    assert params.runtime.trackers == ["wandb"]
    assert params.generate.guidance is not None and params.generate.guidance.positive == "models/p"
    assert params.evaluate.models == {"x": "models/x"}


def test_a_name_with_a_dot_is_one_name():
    params = load_params(
        PARAMS,
        [
            "score.rewards.hpsv2.1=/models/hps",
            "score.feedback.my.stars.kind=rating",
            "score.feedback.my.stars.source=r.csv",
            "score.feedback.my.stars.low=1",
            "score.feedback.my.stars.high=5",
        ],
    )
    assert params.score.rewards["hpsv2.1"] == "/models/hps"
    assert params.score.feedback["my.stars"].source == "r.csv"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("label.c", "must be KEY=VALUE"),
        ("=1", "must be KEY=VALUE"),
        ("label.x=1", "x is not a known key"),
        ("lable.c=1", "lable is not a known key. Did you mean label"),
        ("seed.x=1", "seed is a value, and holds no x"),
        ("label.c=much", "label.c is 'much': it must be a number"),
        ("label.c=[", "it is not YAML"),
        ("label.c=-1", "label.c is -1"),
    ],
)
def test_what_cannot_be_set_is_refused_by_name(given: str, message: str):
    with pytest.raises(TgoError) as refused:
        load_params(PARAMS, [given])
    assert message in str(refused.value)


def test_what_a_stage_ran_with_is_noted_until_it_runs_without(tmp_path: Path):
    workspace = Workspace(tmp_path)
    note("score", [], workspace)
    assert not workspace.overrides.exists()
    note("label", ["label.c=1"], workspace)
    note("score", ["seed=1"], workspace)
    assert (noted("label", workspace), noted("score", workspace)) == (["label.c=1"], ["seed=1"])
    note("label", [], workspace)
    assert (noted("label", workspace), noted("score", workspace)) == ([], ["seed=1"])
