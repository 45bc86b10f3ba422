"""Objectives with a reward's gradient through the whole stage: log, resume, result, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from fine_tune import stage
from tests.fine_tune import runs, world
from tests.plugins.modules import project_folder
from tests.tiny_masked import tiny_amused_pipeline
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import Params, parse

SMALL = {"steps": 3, "guidance_scale": 2.0}
OPTIONS: dict[str, dict[str, Any]] = {
    "align_prop": {**SMALL, "mean": 1.5, "deviation": 0.5},
    "draft": {**SMALL, "last": 2, "kl": 0.1},
    "draft_lv": SMALL,
    "refl": {**SMALL, "earliest": 1, "latest": 2, "pretraining": 1.0},
}
Places = dict[str, Path]


def tuning(objective: str, **fine_tune: Any) -> dict[str, Any]:
    return {"objective": objective, objective: OPTIONS[objective], "steps": 2, "batch_size": 4, **fine_tune}


def train(
    model: Path, places: Places, raw: dict[str, Any] | None = None, **fine_tune: Any
) -> dict[str, float]:
    """Run the stage; returns the metrics of the last step."""
    given = world.raw_params(model, **fine_tune) | (raw or {})
    stage.run(parse(Params, given), world.workspace(places))
    return json.loads((places["training"] / "metrics.json").read_text())["train"]


@pytest.mark.parametrize("objective", ["align_prop", "draft_lv"])
def test_it_trains_draws_and_logs(objective: str, model: Path, places: Places) -> None:
    metrics = train(
        model,
        places,
        {"evaluate": {"rewards": {"pickscore": "demo"}}},
        **tuning(objective, held_out=["pickscore"], validation={"every": 2, "prompts": 1}),
    )
    assert {"loss", "reward", "reward_loss", "drift", "held_out_pickscore", "gradient_norm"} <= metrics.keys()
    assert metrics["drift"] > 0 and metrics["gradient_norm"] > 0
    assert not any(name.endswith(("_positive", "_negative")) for name in metrics)
    assert (places["training"] / "images/step-00002.png").is_file()
    held = stage.progress(world.params(model, **tuning(objective)), world.workspace(places))
    assert held.done, "what is only logged is no part of a result"


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("objective", OPTIONS)
def test_a_training_that_was_stopped_ends_with_the_same_bits(
    objective: str, method: str, source: Path, tmp_path: Path
) -> None:
    fine_tune = tuning(objective, method=method, steps=5, checkpoint_every=1)
    alone = runs.train(source, tmp_path / "alone", fine_tune)
    runs.interrupt(source, tmp_path / "stopped", fine_tune)
    again = runs.train(source, tmp_path / "stopped", fine_tune)
    assert runs.trajectory(again) == runs.trajectory(alone)
    for name, tensor in runs.results(alone).items():
        assert torch.equal(runs.results(again)[name], tensor), name


def test_the_target_of_several_rewards_is_their_mean_in_standard_deviations(
    model: Path, places: Places
) -> None:
    metrics = train(
        model, places, {"target": {"reward": "mean_z", "rewards": ["clip"]}}, **tuning("draft", steps=1)
    )
    single = {**places, **{name: places[name].with_name(f"{name}-single") for name in ("model", "training")}}
    plain = train(model, single, **tuning("draft", steps=1))
    known = [world._score(number) for number in range(world.SAMPLES)]
    mean, deviation = torch.tensor(known).mean(), torch.tensor(known).std()
    assert metrics["reward"] == pytest.approx((plain["reward"] - float(mean)) / float(deviation), rel=1e-4)


def test_labels_of_one_kind_will_do(source: Path, model: Path, tmp_path: Path) -> None:
    from tgo_pipeline.storage.tables import LABELS, read_table

    places = world.joined_places(source, tmp_path)
    labels = tmp_path / "labels"
    for file in sorted((source / "labels").glob("*.parquet")):
        rows = [{**row, "label": 1} for row in read_table(file, LABELS).to_pylist()]
        world.write_labels(labels / file.name, rows)
    assert train(model, {**places, "labels": labels}, **tuning("draft", steps=1))["reward"]


def test_another_reward_trains_again(model: Path, places: Places) -> None:
    train(model, places, **tuning("draft", steps=1))
    other = {"score": {"rewards": {"clip": "demo", "pickscore": "demo"}}, "target": {"reward": "pickscore"}}
    params = parse(Params, world.raw_params(model, **tuning("draft", steps=1)) | other)
    assert not stage.progress(params, world.workspace(places)).done


def test_a_reward_of_ones_own_needs_a_method(
    model: Path, places: Places, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = """
def red(images, prompts): return [0.0] * len(images)
def light(images, prompts): return [0.0] * len(images)
light.score_tensor = lambda images, prompts: images.mean((1, 2, 3))
"""
    with project_folder(tmp_path, monkeypatch, mine=code):
        for name in ("red", "light"):
            raw = {"score": {"rewards": {name: f"mine:{name}"}}, "target": {"reward": name}}
            if name == "red":
                with pytest.raises(TgoError, match=r"reward red has no gradient: .* score_tensor"):
                    train(model, places, raw, **tuning("draft"))
            else:
                assert 0 < train(model, places, raw, **tuning("draft"))["reward"] < 1


@pytest.mark.parametrize(
    ("raw", "fine_tune", "message"),
    [
        ({"target": {"reward": "mean_rank"}}, {}, "mean_rank is made of ranks, which have none"),
        ({"target": {"reward": "majority"}}, {}, "majority is made of votes"),
        (
            {"score": {"rewards": {"hpsv3": "weights"}}, "target": {"reward": "hpsv3.sigma"}},
            {},
            "hpsv3.sigma is a further number of hpsv3, and has none",
        ),
        ({}, {"caption_dropout": 0.2}, "caption_dropout is given, but draft samples"),
        ({}, {"draws": 2}, "draws is given, but draft samples"),
        ({}, {"by_prompt": True}, "by_prompt is given, but draft samples"),
        ({}, {"held_out": ["clip"]}, "held_out names 'clip': it must be .* no part of the target"),
        ({}, {"held_out": ["oracle"]}, r"held_out names 'oracle': .*\(there is none\)"),
        ({}, {"draft": {"last": 51}}, "draft.last is 51: sampling has 50 steps"),
        ({}, {"draft": {"lats": 1}}, "draft.lats is not a known key. Did you mean last"),
        ({}, {"align_prop": {"mean": 50.0}}, "mean is 50: with 50 steps it must be from 0 to 49"),
        ({}, {"align_prop": {"steps": 1, "mean": 0.0}}, "steps is 1: with truncation gaussian"),
        ({}, {"refl": {"earliest": 5, "latest": 4}}, "earliest is 5 and latest 4"),
        ({}, {"options": {"last": 1}}, "options is not for draft"),
    ],
)
def test_what_cannot_be_trained_is_refused(
    raw: dict[str, Any], fine_tune: dict[str, Any], message: str, model: Path
) -> None:
    with pytest.raises(TgoError, match=message):
        parse(Params, world.raw_params(model, **{"objective": "draft", **fine_tune}) | raw)


def test_masked_tokens_pass_no_gradient(places: Places, tmp_path: Path) -> None:
    model = tiny_amused_pipeline(tmp_path / "masked")
    with pytest.raises(TgoError, match=r"no gradient passes the tokens that a AmusedPipeline draws"):
        train(model, places, **tuning("draft"))
