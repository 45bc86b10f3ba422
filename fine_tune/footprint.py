"""What a training takes: one update of the real policy, objective and optimiser, imagined on tensors without content.

Mirrors `Trainer.update`; tests hold it to what that function measures on real weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fine_tune.data.batches import TrainingBatch
from fine_tune.objectives import make_objective
from fine_tune.objectives.base import Batch, Objective
from fine_tune.training.forward import Forward, Likelihoods
from tgo_pipeline.params import FineTuneParams, Params
from tgo_pipeline.planning.families import Family
from tgo_pipeline.planning.meter import Meter, backward, imagined, rounded
from tgo_pipeline.planning.sampling import Encoding
from tgo_pipeline.planning.scoring import Differentiable

PARTS = 2
"""Micro-batches that are imagined of an update: the second has the first one's gradients beside it."""
Tensors = dict[str, tuple[tuple[int, ...], torch.dtype]]


@dataclass(frozen=True)
class Footprint:
    """An update's operations over all processes, and what one process holds in bytes."""

    flops_per_step: float
    weight_bytes: int
    reference_bytes: int
    gradient_bytes: int
    optimizer_bytes: int
    average_bytes: int
    peak_bytes: int
    trained: Tensors
    optimizer: Tensors

    @property
    def state_bytes(self) -> int:
        """What is held from update to update: weights, reference, optimiser, moving average."""
        return self.weight_bytes + self.reference_bytes + self.optimizer_bytes + self.average_bytes

    @property
    def activation_bytes(self) -> int:
        """The batch and what a forward pass keeps for the backward pass: the peak without everything else."""
        return self.peak_bytes - self.state_bytes - self.gradient_bytes


def training(family: Family, encoded: Encoding, params: Params, processes: int = 1) -> Footprint:
    """What one of `processes` that share every batch takes (whole copies).

    Raises `TgoError` for a family that cannot be fine-tuned, and for parameters that do not fit it.
    """
    rewards = None
    if make_objective(params.fine_tune).needs_reward:
        from fine_tune.reward_backprop.imagined import target

        rewards = target(params)
    with imagined():
        return _training(family, encoded, params, processes, rewards)


def _training(
    family: Family, encoded: Encoding, params: Params, processes: int, rewards: Differentiable | None
) -> Footprint:
    tuning, runtime = params.fine_tune, params.runtime
    objective = make_objective(tuning)
    meter = Meter(imagined=True)
    network = family.blueprint.build(family.component)
    policy = family.policy(network, tuning, with_reference=objective.needs_reference)
    policy.corrupt = family.corrupt
    if runtime.gradient_checkpointing:
        policy.save_memory()
    behind = None
    if rewards is not None:
        from fine_tune.reward_backprop.imagined import Imagined

        behind = Imagined(family.blueprint.build(family.vae), rewards, policy, params)
    weights = meter.hold(policy.network, *(behind.networks if behind else ()))
    reference = meter.hold(*policy.networks)
    trained = policy.trainable()
    state = _optimizer_state(_shapes(trained), tuning)
    share = max(1, tuning.batch_size // processes) * objective.members
    part = min(share, (runtime.micro_batch_size or share) * objective.members)
    with meter:
        average = [torch.empty_like(p) for p in trained.values()] if tuning.ema else []
        batch = _batch(encoded, objective, part if behind else share, tuning.draws)
        accelerator: Any = SimpleNamespace(autocast=lambda: rounded(tuning.precision))
        forward = Forward(policy, objective, tuning, accelerator)
        moments = [torch.empty(shape, dtype=dtype) for shape, dtype in state.values()]
        if behind is not None:
            cost = behind.cost(meter, batch)
            flops, peak, rows = cost.flops, cost.peak_bytes, len(batch)
        else:
            rows = _update(forward, objective, tuning, batch, part)
            flops, peak = meter.flops, meter.peak_bytes
    gradients = _bytes(p.grad for p in trained.values() if p.grad is not None)
    return Footprint(
        flops_per_step=flops * share / rows * processes,
        weight_bytes=weights,
        reference_bytes=reference,
        gradient_bytes=gradients,
        optimizer_bytes=_bytes(moments),
        average_bytes=_bytes(average),
        peak_bytes=peak,
        trained=_shapes(trained),
        optimizer=state,
    )


def _optimizer_state(trained: Tensors, tuning: FineTuneParams) -> Tensors:
    """What `make_optimizer`'s optimisers keep after an update, as `named_state` names it."""
    state: Tensors = {}
    for name, (shape, dtype) in trained.items():
        if tuning.optimizer == "adamw":
            state |= {f"step.{name}": ((), torch.float32)}
            state |= {f"{moment}.{name}": (shape, dtype) for moment in ("exp_avg", "exp_avg_sq")}
            continue
        state |= {f"step.{name}": ((), torch.int64), f"RMS.{name}": ((), torch.float32)}
        if len(shape) < 2:
            state |= {f"exp_avg_sq.{name}": (shape, dtype)}
        else:
            state |= {f"exp_avg_sq_row.{name}": (shape[:-1], dtype)}
            state |= {f"exp_avg_sq_col.{name}": ((*shape[:-2], shape[-1]), dtype)}
    return state


def _batch(encoded: Encoding, objective: Objective, rows: int, draws: int) -> TrainingBatch:
    images = {name: torch.zeros(rows, *shape, dtype=dtype) for name, (shape, dtype) in encoded.image.items()}
    conditions, others = (
        {name: torch.zeros(rows, *shape, dtype=dtype) for name, (shape, dtype) in encoded.prompt.items()}
        for _ in range(2)
    )
    point = objective.reference_point
    if not objective.needs_reward and (point is None or not point.mismatched):
        others = {}
    label, weight, score = (torch.zeros(rows) for _ in range(3))
    return TrainingBatch(images, conditions, others, label, weight, score, [[0] * draws] * rows)


def _update(
    forward: Forward, objective: Objective, tuning: FineTuneParams, batch: TrainingBatch, part: int
) -> int:
    """Forward and backward of up to `PARTS` micro-batches, as `Gradient` does; how many rows they were."""
    parts = list(batch.split(part))
    alone = len(parts) == 1
    parts = parts[:PARTS]
    point = objective.reference_point
    if point is not None and (point.mismatched or not alone):
        for each in parts:
            forward.log_ratio(each, point.mismatched)
    for each in parts:
        _learn(objective, tuning, each, forward.likelihoods(each), len(batch))
    return sum(map(len, parts))


def _learn(
    objective: Objective, tuning: FineTuneParams, part: TrainingBatch, likelihoods: Likelihoods, total: int
) -> None:
    given = Batch(
        part.label, part.weight, part.score, tuning.beta, tuning.temperature, 0.0, likelihoods.contrast
    )
    loss, _ = objective(likelihoods.policy, likelihoods.reference, given)
    with rounded(tuning.precision):  # for what is computed again
        backward(loss.sum() / total)


def _shapes(tensors: Mapping[str, Tensor]) -> Tensors:
    return {name: (tuple(tensor.shape), tensor.dtype) for name, tensor in tensors.items()}


def _bytes(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)
