"""One update at a time: gradients, schedules, precision and divergence."""

from __future__ import annotations

import logging
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fine_tune import stage
from fine_tune.data.batches import Encoded, Sampling, TrainingData
from fine_tune.data.cache import encode_folder
from fine_tune.data.labels import read_labels
from fine_tune.data.texts import Texts
from fine_tune.distributed.processes import Group
from fine_tune.objectives import OBJECTIVES, make_objective
from fine_tune.policies.diffusion import DiffusionPolicy
from fine_tune.training.accelerator import Accelerator
from fine_tune.training.trainer import Trainer, learning_rate
from tests.fine_tune import world
from tests.fine_tune.scarce import scarce_memory
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.params import FineTuneParams, RuntimeParams, reward_gradient

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def encoded(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Encoded:
    folder = tmp_path_factory.mktemp("encoded")
    params = world.params(source / "model")
    planned = stage.plan(params, source / "generations")
    encode_folder(folder, stage.source(params, source / "generations"), planned, params.runtime)
    return Encoded(folder, planned)


@pytest.fixture
def make(source: Path, encoded: Encoded):
    """Build a trainer from changed fine-tuning parameters."""

    def build(runtime: dict[str, Any] | None = None, **fine_tune: Any) -> Trainer:
        tuning = world.params(source / "model", **fine_tune).fine_tune
        objective = make_objective(tuning)
        labels = objective.prepare(read_labels(source / "labels"))
        point = objective.reference_point
        sampling = Sampling(
            seed=3,
            batch_size=tuning.batch_size,
            draws=tuning.draws,
            mismatched=point is not None and point.mismatched,
        )
        data = TrainingData(labels, encoded, sampling, objective.units(labels, seed=3))
        policy = DiffusionPolicy.build(
            load_pipeline(str(source / "model")), tuning, seed=3, with_reference=objective.needs_reference
        )
        accelerator = Accelerator(tuning.precision, CPU)
        return Trainer(policy, objective, data, tuning, RuntimeParams(**(runtime or {})), accelerator)

    return build


def weights(trainer: Trainer) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in trainer.state().weights.items()}


def trained(trainer: Trainer, updates: int) -> dict[str, torch.Tensor]:
    for _ in range(updates):
        trainer.update()
    return weights(trainer)


def test_the_first_loss_is_the_weighted_log_of_two(make, source: Path) -> None:
    trainer = make()
    labels = read_labels(source / "labels")
    data = TrainingData(labels, _Any(), Sampling(seed=3, batch_size=8))  # type: ignore[arg-type]
    expected = np.mean([labels.weight[place.unit] * math.log(2) for place in data.places(0)])
    metrics = trainer.update().metrics
    assert metrics["loss"] == pytest.approx(expected, rel=1e-6)
    assert metrics["log_ratio_positive"] == metrics["log_ratio_negative"] == 0
    assert metrics["policy_error_positive"] == metrics["reference_error_positive"]


class _Any:
    def rows(self, sample_ids: Texts) -> np.ndarray:
        return np.arange(len(sample_ids))


def away(trainer: Trainer) -> None:
    """Move a policy off its reference, where log-ratios and reference points are not 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in trainer._trained.values():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)


def gradient(trainer: Trainer) -> tuple[torch.Tensor, float, float]:
    away(trainer)
    measured = trainer._gradient.of(trainer._data.batch(0), trainer._optimizer.zero_grad)
    loss, point = float(measured.losses.mean()), 0.0 if measured.point is None else float(measured.point)
    grads = [p.grad.flatten() for p in trainer._trained.values() if p.grad is not None]
    return torch.cat(grads), loss, point


@pytest.mark.parametrize("part", [1, 3, 8])
@pytest.mark.parametrize("method", ["full", "lora"])
def test_the_gradient_of_parts_is_that_of_the_batch(make, part: int, method: str) -> None:
    whole, *_ = gradient(make(method=method))
    parts, *_ = gradient(make({"micro_batch_size": part}, method=method))
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5 * whole.abs().max().item())


OTHERS = {"csft", *reward_gradient.OBJECTIVES}
"""One trains on prompts that this cache lacks, and the others sample: `tests/fine_tune/reward_backprop`."""
EVERY = [
    *({"objective": name} for name in sorted(OBJECTIVES) if name not in OTHERS),
    {"objective": "kto", "kto": {"reference_point": "paper"}},
    {"objective": "kto", "kto": {"reference_point": "roll"}},
    {"objective": "dspo", "dspo": {"variant": "sdxl"}},
    {"objective": "tgo", "tgo": {"reward_shift": "kl_clamped", "labels": "quantile", "soft_labels": 1.0}},
]


@pytest.mark.parametrize("change", EVERY, ids=lambda c: "-".join(str(v) for v in c.values()))
def test_every_objective_gives_the_gradient_of_the_batch_however_it_is_cut(make, change: dict) -> None:
    whole, loss, point = gradient(make(draws=2, **change))
    parts, loss_of_parts, point_of_parts = gradient(make({"micro_batch_size": 3}, draws=2, **change))
    assert whole.abs().max() > 0
    assert loss_of_parts == pytest.approx(loss, rel=1e-5)
    assert point_of_parts == pytest.approx(point, rel=1e-4, abs=1e-9)
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-4 * whole.abs().max().item())


@pytest.mark.parametrize("objective", ["kto", "bco"])
def test_a_reference_point_is_the_mean_of_the_log_ratios(make, objective: str) -> None:
    trainer = make(objective=objective)
    with torch.no_grad():
        for parameter in trainer._gradient._forward._policy._frozen.parameters():  # type: ignore[union-attr]
            parameter += 0.05 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(2))
    update = trainer.update()
    assert update.log_ratio is not None and update.log_ratio.mean() > 0
    assert update.metrics["reference_point"] == pytest.approx(update.log_ratio.mean(), rel=1e-5)


def test_the_running_point_survives_a_checkpoint(make) -> None:
    def points(trainer: Trainer, updates: int) -> list[float]:
        return [trainer.update().metrics["reference_point"] for _ in range(updates)]

    trainer = make(objective="bco")
    points(trainer, 2)
    state, other = trainer.state(), make(objective="bco")
    copied = {name: tensor.clone() for name, tensor in state.weights.items()}
    moments = {name: tensor.clone() for name, tensor in state.optimizer.items()}
    other.load_state(replace(state, weights=copied, optimizer=moments))
    assert points(other, 2) == points(trainer, 2)


def test_several_draws_are_averaged_for_each_sample(make) -> None:
    trainer = make(draws=3)
    away(trainer)
    batch = trainer._data.batch(0)
    together = trainer._gradient._forward.likelihoods(batch)
    singles = []
    for draw in range(3):
        one = make()
        away(one)
        seeds = [[sample[draw]] for sample in batch.seeds]
        singles.append(one._gradient._forward.likelihoods(replace(batch, seeds=seeds)).log_ratio)
    assert not torch.allclose(singles[0], singles[1])
    torch.testing.assert_close(together.log_ratio, torch.stack(singles).mean(0), rtol=1e-3, atol=1e-4)


def test_the_moving_average_is_that_of_the_weights(make) -> None:
    trainer = make(ema=0.7)
    expected = {name: tensor.double() for name, tensor in weights(trainer).items()}
    for step in range(1, 5):
        trainer.update()
        decay = min(0.7, (1 + step) / (10 + step))
        for name, tensor in weights(trainer).items():
            expected[name] = decay * expected[name] + (1 - decay) * tensor.double()
    own = weights(trainer)
    with trainer.averaged():
        for name, tensor in weights(trainer).items():
            torch.testing.assert_close(tensor.double(), expected[name], rtol=1e-5, atol=1e-7)
    assert all(torch.equal(own[name], tensor) for name, tensor in weights(trainer).items())
    other = make(ema=0.7)
    other.load_state(trainer.state())
    trainer.update(), other.update()
    for name, tensor in trainer.state().average.items():
        assert torch.equal(tensor, other.state().average[name])


def test_training_stops_when_the_negative_side_runs_away(make) -> None:
    trainer = make(guard={"negative_error": 1.1, "patience": 2}, learning_rate=0.05, steps=40)
    with pytest.raises(TgoError, match=r"error on negative samples is .* times the reference's.*guard"):
        trained(trainer, 40)
    assert 2 <= trainer.step < 40
    unguarded = make(guard={"negative_error": None}, learning_rate=0.05, steps=40)
    trained(unguarded, trainer.step + 1)


def test_parts_train_to_the_same_weights(make) -> None:
    whole, parts = trained(make(), 4), trained(make({"micro_batch_size": 3}), 4)
    for name in whole:
        torch.testing.assert_close(parts[name], whole[name], rtol=1e-3, atol=2e-4)


@pytest.mark.parametrize("method", ["full", "lora"])
def test_gradient_checkpointing_changes_nothing(make, method: str) -> None:
    plain = trained(make(method=method), 2)
    saving = trained(make({"gradient_checkpointing": True}, method=method), 2)
    assert all(torch.equal(plain[name], saving[name]) for name in plain)


@pytest.mark.parametrize("objective", ["tgo", "sft"])
def test_the_objective_improves_on_the_same_batch(make, objective: str) -> None:
    trainer = make(objective=objective, learning_rate=1e-4, batch_size=world.SAMPLES)
    losses = []
    for _ in range(12):
        trainer.step = 0  # the same samples, timesteps and noise again
        losses.append(trainer.update().metrics["loss"])
    assert losses[-1] < losses[0] - 0.01


def test_one_update_is_adamw_on_the_clipped_gradient(make) -> None:
    trainer = make(max_grad_norm=0.5, learning_rate=2e-3, weight_decay=0.1)
    before = {name: tensor.double() for name, tensor in weights(trainer).items()}
    trainer._gradient.of(trainer._data.batch(0), trainer._optimizer.zero_grad)
    gradient = {name: p.grad.double().clone() for name, p in trainer._trained.items()}
    trainer._optimizer.zero_grad()
    norm = math.sqrt(sum(g.square().sum().item() for g in gradient.values()))
    assert norm > 0.5
    metrics = trainer.update().metrics
    assert metrics["gradient_norm"] == pytest.approx(norm, rel=1e-4)
    for name, after in weights(trainer).items():
        g = gradient[name] * 0.5 / norm
        # the first step of Adam: both moments divided by their bias corrections are g and g^2
        expected = before[name] * (1 - 2e-3 * 0.1) - 2e-3 * g / (g.abs() + 1e-8)
        torch.testing.assert_close(after.double(), expected, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
@pytest.mark.parametrize("objective", ["tgo", "bco", "dpo"])
def test_memory_that_runs_out_halves_the_parts_and_leaves_the_gradient(
    make, objective: str, backward: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """On a device that holds two samples; bco's point of the first try must not be remembered in the second."""
    whole, loss, point = gradient(make(objective=objective))
    trainer = make(objective=objective)
    with scarce_memory(2, backward=backward) as calls, caplog.at_level(logging.WARNING, logger="tgo"):
        parts, loss_of_parts, point_of_parts = gradient(trainer)
    sizes = [4, 2, 1] if objective == "dpo" else [4, 2]
    said = [f"out of memory: going on with batches of {size} (runtime.micro_batch_size)" for size in sizes]
    assert [record.getMessage() for record in caplog.records] == said
    assert max(calls) > 2 and calls[-1] == 2
    assert loss_of_parts == pytest.approx(loss, rel=1e-5)
    assert point_of_parts == pytest.approx(point, rel=1e-4, abs=1e-9)
    torch.testing.assert_close(parts, whole, rtol=1e-3, atol=1e-4 * whole.abs().max().item())


def test_halved_parts_train_to_the_same_weights_and_stay_halved(make) -> None:
    whole, scarce = make(objective="bco"), make({"micro_batch_size": 6}, objective="bco")
    expected = trained(whole, 3)
    with scarce_memory(3) as calls:
        found = trained(scarce, 3)
    assert [size for size in calls if size > 3] == [6]
    assert scarce._gradient.point_state.tolist() == pytest.approx(
        whole._gradient.point_state.tolist(), rel=1e-4, abs=1e-4
    )
    for name in expected:
        torch.testing.assert_close(found[name], expected[name], rtol=1e-3, atol=2e-4)


def test_a_sample_that_does_not_fit_is_said_with_what_to_do(make) -> None:
    trainer = make()
    with (
        scarce_memory(0),
        pytest.raises(
            TgoError, match=r"not even one sample fits .*2 GiB\): set runtime.gradient_checkpointing"
        ),
    ):
        trainer.update()


def test_processes_that_share_shards_are_told_a_size_that_may_fit(make) -> None:
    """The others wait inside of the network: they cannot be asked to begin again."""
    trainer = make()
    trainer._gradient._group = Group(sharded=True)
    with (
        scarce_memory(4),
        pytest.raises(
            TgoError, match=r"in process 0 \(CUDA out of memory.*set runtime.micro_batch_size below 8"
        ),
    ):
        trainer.update()


def test_other_errors_of_a_network_pass_through(make) -> None:
    trainer = make()
    trainer._gradient._forward._policy.network.conv_in = torch.nn.Conv2d(5, 8, 3)
    with pytest.raises(RuntimeError, match="channels"):
        trainer.update()


@pytest.mark.parametrize("method", ["full", "lora"])
def test_half_precision_keeps_float32_weights(make, method: str) -> None:
    trainer = make(precision="bf16", method=method)
    before = weights(trainer)
    metrics = trainer.update().metrics
    assert metrics["log_ratio_positive"] == 0  # policy and reference are rounded alike
    assert any(not torch.equal(before[name], tensor) for name, tensor in weights(trainer).items())
    assert math.isfinite(trainer.update().metrics["loss"])
    assert all(tensor.dtype == torch.float32 for tensor in trainer.state().weights.values())


def test_fp16_on_a_cpu_is_refused(make) -> None:
    with pytest.raises(TgoError, match="fp16, which needs a GPU"):
        make(precision="fp16")


def test_divergence_ends_training_and_leaves_the_weights(make) -> None:
    trainer = make()
    trainer.update()
    with torch.no_grad():
        for parameter in trainer._trained.values():
            parameter *= 1e30
    before = weights(trainer)
    with pytest.raises(TgoError, match=r"step 2 is not finite.*learning_rate"):
        trainer.update()
    assert trainer.step == 1
    assert all(torch.equal(before[name], after) for name, after in weights(trainer).items())


def test_a_state_brings_back_the_same_future(make) -> None:
    trainer = make(schedule="cosine")
    trained(trainer, 3)
    state = trainer.state()
    weights_then = {name: tensor.clone() for name, tensor in state.weights.items()}
    moments_then = {name: tensor.clone() for name, tensor in state.optimizer.items()}
    future = trained(trainer, 2)
    other = make(schedule="cosine")
    other.load_state(replace(state, weights=weights_then, optimizer=moments_then))
    again = trained(other, 2)
    assert all(torch.equal(future[name], again[name]) for name in future)


def test_a_state_without_moments_is_that_of_an_optimiser_that_never_stepped(make) -> None:
    first, other = make(), make()
    other.load_state(first.state())
    ours, theirs = trained(first, 2), trained(other, 2)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
def test_the_learning_rate_follows_its_schedule(schedule: Any) -> None:
    params = FineTuneParams(learning_rate=2.0, warmup_steps=4, steps=12, schedule=schedule)
    rates = [learning_rate(params, step) for step in range(12)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    middle = {"constant": 2.0, "cosine": 1.0, "linear": 1.0}[schedule]
    assert rates[8] == pytest.approx(middle)
    last = {"constant": 2.0, "cosine": 1 + math.cos(math.pi * 7 / 8), "linear": 0.25}[schedule]
    assert rates[11] == pytest.approx(last)


def test_sft_sees_positives_only_and_keeps_no_copy(make) -> None:
    trainer = make(objective="sft")
    update = trainer.update()
    assert update.label.all() and update.log_ratio is None
    assert "policy_error_positive" in update.metrics and "policy_error_negative" not in update.metrics
    assert trainer._gradient._forward._policy._frozen is None  # type: ignore[attr-defined]
