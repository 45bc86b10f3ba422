"""The optimisation: one policy and one reference forward for each batch, one AdamW update, exact state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from torch import Tensor

from fine_tune.checkpoints import State
from fine_tune.data import TrainingBatch, TrainingData
from fine_tune.log import summarise
from fine_tune.objectives.base import Batch, Objective
from fine_tune.policies.base import Policy
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import FineTuneParams, RuntimeParams

MOMENTS = ("step", "exp_avg", "exp_avg_sq")


@dataclass(frozen=True)
class Update:
    """What one update measured, before it changed the weights."""

    metrics: dict[str, float]
    log_ratio: np.ndarray | None
    """(B,) of the batch, None for an objective without reference."""
    label: np.ndarray


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
    ) -> None:
        self.step = 0
        self._policy = policy
        self._objective = objective
        self._data = data
        self._params = params
        self._accelerator = accelerator
        self._part = runtime.micro_batch_size or params.batch_size
        if runtime.gradient_checkpointing:
            policy.save_memory()
        self._trained = policy.trainable()
        self._device = next(iter(self._trained.values())).device
        self._optimizer = _optimizer(list(self._trained.values()), params)
        self._prepared = accelerator.prepare_optimizer(self._optimizer)

    def update(self) -> Update:
        """One optimiser step. Raises `TgoError`, with the weights unchanged, if the loss is not finite."""
        batch = self._data.batch(self.step)
        parts = [self._backward(part, len(batch)) for part in batch.split(self._part)]
        per_sample = {name: torch.cat([part[name] for part in parts]).cpu().numpy() for name in parts[0]}
        self._check("loss", bool(np.isfinite(per_sample["loss"]).all()))
        norm = float(
            self._accelerator.clip_grad_norm_(self._trained.values(), self._params.max_grad_norm)  # type: ignore[arg-type]
        )
        if self._accelerator.scaler is None:  # with fp16 an overflow skips the update and lowers the scale
            self._check("gradient", math.isfinite(norm))
        rate = learning_rate(self._params, self.step)
        for group in self._optimizer.param_groups:
            group["lr"] = rate
        self._prepared.step()
        self._prepared.zero_grad()
        self.step += 1
        label = batch.label.numpy()
        metrics = summarise(per_sample, label, batch.weight.numpy())
        metrics |= {
            "learning_rate": rate,
            "gradient_norm": norm,
            "epoch": self._data.epochs(self.step),
        }
        return Update(metrics, per_sample.get("log_ratio"), label)

    def _backward(self, part: TrainingBatch, total: int) -> dict[str, Tensor]:
        """Add the gradient of a part's share of the batch mean; returns (B,) values of the part."""
        part = part.to(self._device)
        corruption = self._policy.corrupt(part.images, part.conditions, part.seeds)
        reference = None
        with self._accelerator.autocast():
            if self._objective.needs_reference:
                with self._policy.reference():
                    reference = self._policy.log_likelihood(corruption)
            likelihood = self._policy.log_likelihood(corruption)
        temperature = self._params.temperature
        batch = Batch(part.label, part.weight, self._params.beta, temperature)
        losses, metrics = self._objective.loss(likelihood, reference, batch)
        self._accelerator.backward(losses.sum() / total)
        values = {"loss": losses.detach(), "policy_error": -temperature * likelihood.detach(), **metrics}
        return values if reference is None else {**values, "reference_error": -temperature * reference}

    def _check(self, what: str, finite: bool) -> None:
        if not finite:
            raise TgoError(
                f"the {what} of step {self.step + 1} is not finite: training has diverged, and the weights from before "
                "it are in the last checkpoint. Lower fine_tune.learning_rate, raise fine_tune.temperature, or use "
                "precision fp32."
            )

    def state(self) -> State:
        """What a checkpoint holds."""
        names = {id(parameter): name for name, parameter in self._trained.items()}
        moments = {
            f"{key}.{names[id(parameter)]}": value.cpu()
            for parameter, values in self._optimizer.state.items()
            for key, value in values.items()
            if key in MOMENTS
        }
        weights = {name: parameter.detach().cpu() for name, parameter in self._trained.items()}
        scaler = self._accelerator.scaler
        return State(self.step, weights, moments, scaler.state_dict() if scaler else {})

    def load_state(self, state: State) -> None:
        """Go on from a checkpoint of the same training.

        A parameter has no moments before its first update: fp16 skips updates that overflow.
        """
        with torch.no_grad():
            for name, parameter in self._trained.items():
                parameter.copy_(state.weights[name])
        content = self._optimizer.state_dict()
        content["state"] = {
            number: {key: state.optimizer[f"{key}.{name}"].clone() for key in MOMENTS}
            for number, name in enumerate(self._trained)
            if f"{MOMENTS[0]}.{name}" in state.optimizer
        }
        self._optimizer.load_state_dict(content)
        if self._accelerator.scaler is not None:
            self._accelerator.scaler.load_state_dict(state.scaler)
        self.step = state.step


def learning_rate(params: FineTuneParams, step: int) -> float:
    """The rate of the update after `step` updates: linear warm-up, then constant, cosine or linear to 0."""
    if step < params.warmup_steps:
        return params.learning_rate * (step + 1) / params.warmup_steps
    progress = (step - params.warmup_steps) / max(1, params.steps - params.warmup_steps)
    factor = {"constant": 1.0, "cosine": (1 + math.cos(math.pi * progress)) / 2, "linear": 1 - progress}
    return params.learning_rate * factor[params.schedule]


def _optimizer(parameters: list[torch.nn.Parameter], params: FineTuneParams) -> torch.optim.AdamW:
    return torch.optim.AdamW(
        parameters,
        lr=params.learning_rate,
        betas=(params.adam_beta1, params.adam_beta2),
        eps=params.adam_epsilon,
        weight_decay=params.weight_decay,
        fused=params.precision != "fp16",  # one kernel; the loss scaler wants the other path
    )


def make_accelerator(params: FineTuneParams, device: torch.device) -> Accelerator:
    """Precision and device for this training. Raises `TgoError` where the device lacks the precision."""
    if params.precision == "fp16" and device.type == "cpu":
        raise TgoError("fine_tune.precision is fp16, which needs a GPU: use bf16 or fp32 on a CPU.")
    if device.type == "cuda":
        torch.cuda.set_device(device)
        torch.backends.cudnn.deterministic = True
    AcceleratorState._reset_state(reset_partial_state=True)  # an earlier training of this process may differ
    precision: Any = {"fp32": "no"}.get(params.precision, params.precision)
    return Accelerator(mixed_precision=precision, cpu=device.type == "cpu")
