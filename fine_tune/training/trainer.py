"""The optimisation: policy and reference on one batch, one update, exact state."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.distributed.tensor import DTensor

from fine_tune.data.batches import TrainingData
from fine_tune.distributed.networks import Spread, load_whole_weights, whole_weights
from fine_tune.distributed.processes import Group
from fine_tune.objectives.base import Objective
from fine_tune.policies.base import Policy
from fine_tune.training.accelerator import Accelerator
from fine_tune.training.checkpoints import State
from fine_tune.training.early_stopping import Guard
from fine_tune.training.forward import Forward
from fine_tune.training.gradient import Gradient, LikelihoodGradient
from fine_tune.training.importance import Importance
from fine_tune.training.log import summarise
from fine_tune.training.optimizers import load_named_state, make_optimizer, named_state
from tgo_pipeline.devices import fetch
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import FineTuneParams, RuntimeParams

POINT, GUARD, THRESHOLDS = "reference_point", "guard", "thresholds"
LOSS, NORM, SHARED = "loss of each unit", "norm of the gradient", "reference point of the batch"
"""Beside the names that objectives give to what they measure."""


@dataclass(frozen=True)
class Update:
    """What one update measured, before it changed the weights."""

    metrics: dict[str, float]
    log_ratio: np.ndarray | None
    """(B,) of the batch, None for an objective without reference."""
    label: np.ndarray | None
    """(B,) the sides of its samples, None for an objective that samples itself."""


class Trainer:
    """Takes a policy from step to step; everything but `state()` follows from the parameters and the seed."""

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        data: TrainingData,
        params: FineTuneParams,
        runtime: RuntimeParams,
        accelerator: Accelerator,
        group: Group | None = None,
        gradient: Gradient | None = None,
        importance: Importance | None = None,
    ) -> None:
        """`group` are the processes that share every batch; by default this one alone.

        `gradient` is how the objective comes by it; by default from the log-likelihoods of stored samples, whose noise
        levels `importance` may draw. Raises `TgoError` for a batch that they cannot share out equally.
        """
        self.step = 0
        self.thresholds: list[float] = []
        """tau by epoch, where it is estimated again."""
        self._group = group or Group()
        self._objective = objective
        self._data = data
        self._params = params
        self._accelerator = accelerator
        self._guard = Guard(params.guard, both_sides=objective.binds_differences)
        check_share(params, self._group)
        self._gradient = gradient or LikelihoodGradient(
            Forward(policy, objective, params, accelerator, importance),
            objective,
            params,
            accelerator,
            self._group,
            runtime.micro_batch_size,
        )
        if runtime.gradient_checkpointing:
            policy.save_memory()
        if runtime.compile:
            policy.compile()
        self._device = accelerator.device
        self._spread = Spread(policy, self._group, self._device)
        self._network = policy.network
        self._trained = policy.trainable()
        self._average = _copies(self._trained) if params.ema else {}
        self._optimizer = make_optimizer(list(self._trained.values()), params)

    def update(self) -> Update:
        """One optimiser step.

        Raises `TgoError` if loss or gradient are not finite, with the weights unchanged, or if the error on negative
        samples has run away.
        """
        batch = self._data.batch(self.step, self._group.rank, self._group.size)
        measured = self._gradient.of(batch, self._optimizer.zero_grad)
        self._spread.average(self._trained.values())
        point = {} if measured.point is None else {SHARED: measured.point}
        found = fetch({NORM: self._clip(), LOSS: measured.losses, **point, **measured.values})
        norm = float(found.pop(NORM)[0])
        shared = {POINT: float(found.pop(SHARED)[0])} if SHARED in found else {}
        per_sample = self._group.gather(found)
        losses = torch.from_numpy(per_sample.pop(LOSS)).double()
        loss = float(losses.sum() / len(losses))
        self._check("loss", math.isfinite(loss))
        if self._accelerator.scaler is None:  # with fp16 an overflow skips the update and lowers the scale
            self._check("gradient", math.isfinite(norm))
        rate = learning_rate(self._params, self.step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._accelerator.step(self._optimizer)
        self._optimizer.zero_grad()
        self.step += 1
        self._update_average()
        label = (per_sample.pop("label") >= 0.5).astype(np.int64) if "label" in per_sample else None
        metrics = {"loss": loss, **summarise(per_sample, label, per_sample.pop("weight", None))}
        metrics |= {"learning_rate": rate, "epoch": self._data.epochs(self.step)}
        if math.isfinite(norm):  # with fp16 a step that overflowed has none
            metrics["gradient_norm"] = norm
        metrics |= shared
        self._guard.check(self.step, metrics)
        return Update(metrics, per_sample.get("log_ratio"), label)

    def _clip(self) -> Tensor:
        """Clip the whole gradient; its norm before that, on the device."""
        self._accelerator.unscale(self._optimizer)
        norm = torch.nn.utils.clip_grad_norm_(self._trained.values(), self._params.max_grad_norm)
        return norm.full_tensor() if isinstance(norm, DTensor) else norm

    def _check(self, what: str, finite: bool) -> None:
        if not finite:
            raise TgoError(
                f"the {what} of step {self.step + 1} is not finite: training has diverged, and the weights from before "
                "it are in the last checkpoint. Lower fine_tune.learning_rate, raise fine_tune.temperature, or use "
                "precision fp32."
            )

    @torch.no_grad()
    def _update_average(self) -> None:
        if not self._params.ema:
            return
        decay = min(self._params.ema, (1 + self.step) / (10 + self.step))
        for name, parameter in self._trained.items():
            self._average[name].lerp_(parameter, 1 - decay)

    @contextlib.contextmanager
    def averaged(self) -> Iterator[None]:
        """While it lasts, the policy holds the moving average of its weights, if `fine_tune.ema` asks for one."""
        own = _copies(self._trained) if self._average else {}
        self._set_weights(self._average)
        try:
            yield
        finally:
            self._set_weights(own)

    @torch.no_grad()
    def _set_weights(self, weights: dict[str, Tensor]) -> None:
        for name, value in weights.items():
            self._trained[name].copy_(value)

    def weights(self) -> dict[str, Tensor]:
        """The trained tensors on the CPU, whole; empty but for the main process. All processes have to call it."""
        return whole_weights(self._network, self._trained)

    def state(self) -> State:
        """What a checkpoint holds, copied to the CPU: updates leave it as it is.

        Without tensors but for the main process. All processes have to call it.
        """
        # From a CPU nothing is copied on the way; from a GPU a second copy would take the host's memory twice.
        own = _copies if self._device.type == "cpu" else dict
        average: dict[str, Tensor] = {}
        if self._average:
            with self.averaged():
                average = own(self.weights())
        moments = own(named_state(self._optimizer, self._network))
        scaler = self._accelerator.scaler
        memory = {POINT: self._gradient.point_state.cpu().tolist(), GUARD: self._guard.state()}
        memory |= {THRESHOLDS: list(self.thresholds)} if self.thresholds else {}
        return State(
            self.step, own(self.weights()), moments, scaler.state_dict() if scaler else {}, average, memory
        )

    def load_state(self, state: State) -> None:
        """Go on from a checkpoint of the same training, by however many processes it was written."""
        if state.average:
            load_whole_weights(self._network, state.average)
            self._average = _copies(self._trained)
        load_whole_weights(self._network, state.weights)
        self._gradient.point_state = torch.tensor(state.memory[POINT], dtype=torch.float64)
        self._guard.load_state(state.memory[GUARD])
        self.thresholds = list(state.memory.get(THRESHOLDS, []))
        load_named_state(self._optimizer, self._network, state.optimizer)
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state.scaler)
        self.step = state.step


def _copies(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def check_share(params: FineTuneParams, group: Group) -> None:
    """Raises `TgoError` for a training that the processes of a group cannot do together."""
    if params.batch_size % group.size:
        raise TgoError(
            f"fine_tune.batch_size is {params.batch_size}, which {group.size} processes cannot share out equally: use "
            "a multiple, or another number of processes."
        )
    if group.sharded and params.optimizer == "adafactor":
        raise TgoError(
            "fine_tune.optimizer is adafactor, whose rows and columns cannot be kept for sharded weights: use adamw, "
            "or launch with configs/accelerate/ddp.yaml."
        )


def learning_rate(params: FineTuneParams, step: int) -> float:
    """The rate of the update after `step` updates: linear warm-up, then constant, cosine or linear to 0."""
    if step < params.warmup_steps:
        return params.learning_rate * (step + 1) / params.warmup_steps
    progress = (step - params.warmup_steps) / max(1, params.steps - params.warmup_steps)
    factor = {"constant": 1.0, "cosine": (1 + math.cos(math.pi * progress)) / 2, "linear": 1 - progress}
    return params.learning_rate * factor[params.schedule]
