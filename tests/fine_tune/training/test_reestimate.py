"""A new tau every epoch: what is drawn, which labels follow, what is remembered, and what is refused."""

from __future__ import annotations

import contextlib
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from fine_tune import stage
from fine_tune.data.batches import Encoded, Sampling, TrainingData
from fine_tune.data.labels import Labels, read_labels
from fine_tune.data.texts import Texts
from fine_tune.distributed.processes import Group
from fine_tune.objectives import make_objective
from fine_tune.training.reestimate import Estimator, Reestimation, check, choose_prompts, mark, relabelled
from tests.fine_tune import runs, world
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import (
    GenerateParams,
    GuidanceParams,
    LabelParams,
    Params,
    ScoreParams,
    TargetParams,
    ThresholdParams,
    parse,
)
from tgo_pipeline.params.feedback import FeedbackParams
from tgo_pipeline.params.fine_tune import ReestimateParams
from tgo_pipeline.thresholds.targets import combine

Settings = dict[str, Any]
ANEW = {"reestimate": {"prompts": 3, "images_per_prompt": 2}, "batch_size": 10, "steps": 6}
"""24 samples: epochs begin in the middle of the batches of steps 2 and 4, counted from 0."""


def params(model: Path, target: Settings | None = None, **fine_tune: Any) -> Params:
    raw = world.raw_params(model, **(ANEW | fine_tune))
    return parse(Params, raw | {"target": target or {"reward": "clip"}})


@pytest.fixture(scope="module")
def scored(source: Path) -> dict[str, Path]:
    """Scores and thresholds of the tiny data set."""
    return {name: world.places(source)[name] for name in ("scores", "thresholds")}


def train(source: Path, root: Path, **fine_tune: Any) -> Path:
    stage.run(params(source / "model", **fine_tune), world.workspace(world.joined_places(source, root)))
    return root


def taus(root: Path) -> list[float]:
    file = root / "training/plots/metrics/train/threshold.tsv"
    return [float(line.split("\t")[1]) for line in file.read_text().splitlines()[1:]]


@pytest.fixture(scope="module")
def whole(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(source, tmp_path_factory.mktemp("whole"))


def test_tau_changes_at_the_first_step_of_every_epoch_and_is_logged(
    whole: Path, source: Path, scored: dict[str, Path]
) -> None:
    found = taus(whole)
    first = pl.read_parquet(scored["thresholds"])["tau"][0]
    assert found[:2] == [first, first]
    assert found[2] == found[3] != first
    assert found[4] == found[5] not in found[:4]
    assert all(0 < tau < 1 for tau in found[2:])  # what CLIP's cosine gives, unlike the labels' scores


def test_the_training_is_another_than_with_one_tau(whole: Path, source: Path, tmp_path: Path) -> None:
    plain = runs.train(source, tmp_path, {**ANEW, "reestimate": None})
    same, other = runs.trajectory(plain)["loss"], runs.trajectory(whole)["loss"]
    assert other[:2] == same[:2]
    assert other[2] != same[2]


@pytest.mark.parametrize("steps", [2, 3])
def test_a_training_that_was_stopped_goes_on_exactly(
    whole: Path, source: Path, tmp_path: Path, steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped where the second epoch is about to begin, and in the middle of it."""
    from fine_tune.training.trainer import Trainer
    from tgo_pipeline.storage.shards import Interrupted

    update = Trainer.update

    def stop_after(self: Trainer) -> Any:
        if self.step == steps:
            raise Interrupted
        return update(self)

    with monkeypatch.context() as patched:
        patched.setattr(Trainer, "update", stop_after)
        with pytest.raises(Interrupted):
            train(source, tmp_path, checkpoint_every=1)
    train(source, tmp_path, checkpoint_every=1)
    assert taus(tmp_path) == taus(whole)
    assert runs.trajectory(tmp_path) == runs.trajectory(whole)
    for name, tensor in runs.results(whole).items():
        assert torch.equal(runs.results(tmp_path)[name], tensor)


def labels(scores: list[float]) -> Labels:
    values = np.array(scores)
    count = len(scores)
    ones = np.ones(count)
    ids, prompts = (
        Texts([f"{letter}{i // step}" for i in range(count)]) for letter, step in (("s", 1), ("p", 2))
    )
    return Labels(ids, prompts, (values >= 0).astype(np.int64), ones, values, values)


def test_samples_are_labelled_and_weighed_at_the_new_tau(source: Path) -> None:
    parameters = params(source / "model")
    made = relabelled(labels([-1.0, 0.0, 1.0, 4.0]), 1.0, parameters, make_objective(parameters.fine_tune))
    assert made.label.tolist() == [0, 0, 1, 1]
    unit = np.std([-1, 0, 1, 4], ddof=1)
    np.testing.assert_allclose(made.weight, 1 + 5 * np.abs([-2, -1, 0, 3]) / unit)
    assert made.relative_score.tolist() == [-2, -1, 0, 3]
    assert made.score.tolist() == [-1, 0, 1, 4]


def test_a_policy_that_left_the_training_images_behind_is_said_so(source: Path) -> None:
    parameters = params(source / "model")
    with pytest.raises(
        TgoError, match=r"put tau at 9, while the training images score from -1 to 4: none of"
    ):
        relabelled(labels([-1.0, 0.0, 1.0, 4.0]), 9.0, parameters, make_objective(parameters.fine_tune))


@pytest.fixture
def data(whole: Path, source: Path) -> TrainingData:
    """The tiny data set as encoded: 24 samples in batches of 10."""
    planned = stage.plan(params(source / "model"), source / "generations")
    sampling = Sampling(seed=3, batch_size=10)
    return TrainingData(read_labels(source / "labels"), Encoded(whole / "encoded", planned), sampling)


def test_a_batch_of_two_epochs_has_the_labels_of_both(data: TrainingData, source: Path) -> None:
    assert [data.epochs_of(step) for step in range(5)] == [
        range(1),
        range(1),
        range(2),
        range(1, 2),
        range(1, 3),
    ]
    known = read_labels(source / "labels")
    before = data.batch(2)
    data.relabel({1: replace(known, label=1 - known.label, weight=np.full(len(known), 7.0))})
    after = data.batch(2)
    epochs = [int(place.turn) for place in data.places(2)]
    assert epochs == [0] * 4 + [1] * 6
    assert torch.equal(after.label[:4], before.label[:4])
    assert torch.equal(after.label[4:], 1 - before.label[4:])
    assert after.weight[4:].tolist() == [7] * 6
    assert torch.equal(after.weight[:4], before.weight[:4])
    assert torch.equal(after.score, before.score)


def test_a_prefix_is_that_of_the_epochs_label(data: TrainingData, source: Path) -> None:
    known = read_labels(source / "labels")
    data._sampling = replace(data._sampling, prefixes={0: "bad ", 1: "good "})
    before = data._prompts(data.places(2))
    data.relabel({1: known.labelled(1 - known.label)})
    after = data._prompts(data.places(2))
    assert after[:4] == before[:4]
    assert all(
        {a.split()[0], b.split()[0]} == {"good", "bad"} for a, b in zip(after[4:], before[4:], strict=True)
    )


class Counting:
    """An estimator that says which epoch it was asked for."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def draw(self, epoch: int) -> list[Any]:
        self.asked.append(epoch)
        return []

    def tau(self, epoch: int, images: list[Any]) -> float:
        return epoch / 10


class Stepping:
    """What a re-estimation asks of a trainer."""

    def __init__(self, thresholds: list[float]) -> None:
        self.step = 0
        self.thresholds = thresholds
        self.averaged = contextlib.nullcontext


def walk(data: Any, steps: range, thresholds: list[float]) -> tuple[Stepping, Counting, list[float]]:
    trainer, estimator = Stepping(thresholds), Counting()
    anew = Reestimation(trainer, data, estimator, lambda tau: labels([tau - 1, tau]), -1.0, Group())  # type: ignore[arg-type]
    seen = []
    for step in steps:
        trainer.step = step
        anew.advance()
        seen.append(anew.tau)
    return trainer, estimator, seen


def test_one_estimate_for_each_epoch_and_none_twice(data: TrainingData) -> None:
    trainer, estimator, seen = walk(data, range(6), [])
    assert estimator.asked == [1, 2]
    assert seen == [-1, -1, 0.1, 0.1, 0.2, 0.2]
    assert trainer.thresholds == [-1, 0.1, 0.2]
    _, estimator, seen = walk(data, range(3, 6), [-1, 0.1])
    assert (estimator.asked, seen) == ([2], [0.1, 0.2, 0.2])


def test_epochs_that_one_batch_begins_share_their_tau(data: TrainingData) -> None:
    data._sampling = replace(data._sampling, batch_size=60)
    trainer, estimator, _ = walk(data, range(2), [])
    assert estimator.asked == [1, 3]
    assert trainer.thresholds == [-1, 0.1, 0.1, 0.3, 0.3]


def test_prompts_are_chosen_by_a_hash_and_are_the_training_sets(data: TrainingData, source: Path) -> None:
    known = read_labels(source / "labels")
    chosen = choose_prompts(known, data.encoded, params(source / "model"))
    assert len(chosen) == len(set(chosen)) == 3
    assert all(prompt == f"picture number {key[1:]}" for key, prompt in chosen)
    everything = params(source / "model", reestimate={"prompts": 99})
    assert choose_prompts(known, data.encoded, everything)[:3] == chosen
    assert len(choose_prompts(known, data.encoded, everything)) == world.PROMPT_COUNT


def estimator(source: Path, parameters: Params, scored: dict[str, Path]) -> Estimator:
    from tgo_pipeline.generators import load_pipeline

    pipeline = load_pipeline(str(source / "model"), None, "cpu")
    return Estimator(pipeline, [("p0", "picture number 0")], parameters, scored["scores"], {})


def test_combined_targets_are_measured_against_the_training_scores(
    source: Path, scored: dict[str, Path]
) -> None:
    """mean_z of one reward is its z-score in the units of the training scores, whatever the new images score."""
    plain = estimator(source, params(source / "model"), scored)
    combined = estimator(source, params(source / "model", {"reward": "mean_z"}), scored)
    images = plain.draw(1)
    assert len(images) == 2
    score = plain.tau(1, images)
    reference = pl.read_parquet(scored["scores"])["clip"].to_numpy().astype(float)
    expected = combine({"clip": np.array([score])}, "mean_z", {"clip": reference})
    assert combined.tau(1, images) == pytest.approx(float(expected[0]))
    assert [np.asarray(a).tolist() for a in plain.draw(1)] == [np.asarray(a).tolist() for a in images]
    assert np.asarray(plain.draw(2)[0]).tolist() != np.asarray(images[0]).tolist()


def test_images_that_cannot_be_scored_are_said_so(source: Path, scored: dict[str, Path]) -> None:
    one = estimator(source, params(source / "model"), scored)
    with pytest.raises(TgoError, match="1 of 1 images that tau of epoch 4 is estimated from"):
        one._prompts = [("p0", "picture number 0")]
        one._params = replace(
            one._params,
            fine_tune=replace(one._params.fine_tune, reestimate=ReestimateParams(images_per_prompt=1)),
        )
        one.tau(4, one.draw(4))


FEEDBACK = ScoreParams(
    rewards={"clip": "demo"}, feedback={"stars": FeedbackParams(kind="rating", source="f.csv")}
)
REFUSED: dict[str, tuple[Settings, str]] = {
    "feedback": ({"score": FEEDBACK, "target": TargetParams(reward="stars")}, "target stars needs feedback"),
    "mode": ({"threshold": ThresholdParams(baseline="prompt_mean")}, "threshold.baseline is prompt_mean"),
    "majority": ({"target": TargetParams(reward="majority")}, "whose tau is one half"),
    "guided": (
        {"generate": GenerateParams(guidance=GuidanceParams(kind="pgd", positive="folder"))},
        "drew the training images with modules",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_estimated_anew_is_refused(source: Path, case: str) -> None:
    changes, message = REFUSED[case]
    parameters = replace(params(source / "model"), **changes)
    with pytest.raises(TgoError, match=rf"fine_tune\.reestimate is given, but .*{re.escape(message)}"):
        check(parameters)
    check(replace(parameters, fine_tune=replace(parameters.fine_tune, reestimate=None)))


@pytest.mark.parametrize(
    ("fine_tune", "message"),
    [
        ({"objective": "dpo"}, "dpo does not label samples"),
        ({"objective": "sft"}, "sft does not label samples"),
        ({"objective": "qrpo"}, "qrpo does not label samples"),
        ({"objective": "cpgd"}, "cpgd does not label samples"),
        ({"tgo": {"labels": "quantile"}}, "tgo does not label samples"),
        ({"positive_share": 0.5}, "positive_share draws samples by their side"),
    ],
)
def test_objectives_that_no_tau_labels_are_refused(source: Path, fine_tune: Settings, message: str) -> None:
    with pytest.raises(TgoError, match=message):
        check(params(source / "model", **fine_tune))


@pytest.mark.parametrize("objective", ["tgo", "kto", "bco", "csft"])
def test_objectives_that_read_labels_are_taken(source: Path, objective: str) -> None:
    check(params(source / "model", objective=objective))


def test_the_refusal_comes_before_any_work(source: Path, tmp_path: Path) -> None:
    with pytest.raises(TgoError, match="dpo does not label samples"):
        train(source, tmp_path, objective="dpo")
    assert not (tmp_path / "encoded").exists()


def test_the_mark_follows_what_the_taus_depend_on(source: Path, scored: dict[str, Path]) -> None:
    model = source / "model"
    first = mark(params(model), **scored)
    assert first == mark(params(model), **scored)
    assert mark(params(model, reestimate=None), **scored) is None
    for changed in (
        replace(params(model), label=LabelParams(c=1.0)),
        replace(params(model), generate=GenerateParams(steps=3)),
        replace(params(model), threshold=ThresholdParams(percentile=0.6)),
    ):
        assert mark(changed, **scored) != first
