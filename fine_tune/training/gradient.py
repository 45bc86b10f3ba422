"""The gradient of a whole batch, in parts that fit into memory."""

from __future__ import annotations

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor

from fine_tune.data.batches import TrainingBatch
from fine_tune.distributed.processes import Group
from fine_tune.objectives.base import Batch, Objective, ReferencePoint
from fine_tune.training.accelerator import Accelerator
from fine_tune.training.forward import Forward, Likelihoods, Predictions
from tgo_pipeline.devices import in_float64, to_device
from tgo_pipeline.errors import TgoError
from tgo_pipeline.memory import Halving, OutOfMemory, attempt
from tgo_pipeline.params import FineTuneParams

T = TypeVar("T")
Values = dict[str, Tensor]


@dataclass(frozen=True)
class Measured:
    """What the passes over a batch found, on the device still."""

    losses: Tensor
    """Of this process's share, one for each `loss_samples` samples."""
    values: Values
    """(B,) of its samples: errors, what the objective says, labels and weights."""
    point: Tensor | None
    """The reference point of the whole batch, if the objective has one: one number."""


class Gradient(abc.ABC):
    """Leaves the gradient of a batch's mean loss in a network's parameters, however many parts it takes."""

    def __init__(
        self,
        objective: Objective,
        params: FineTuneParams,
        accelerator: Accelerator,
        group: Group,
        units: int | None,
    ) -> None:
        """`units` go through the network at once; None: a process's whole share, or what fits of it."""
        self._objective = objective
        self._params = params
        self._accelerator = accelerator
        self._group = group
        self._members = objective.members
        point = objective.reference_point
        self.point_state = torch.zeros(point.states if point else 0, dtype=torch.float64)
        """What the reference point remembers from step to step."""
        share = max(1, params.batch_size // group.size)
        self._size = Halving(
            min(units or share, share),
            "runtime.micro_batch_size",
            {1: "sample", 2: "pair"}.get(objective.members, "unit"),
            "set runtime.gradient_checkpointing to true, fine_tune.method to lora, or choose another device",
        )

    def of(self, batch: TrainingBatch, clear: Callable[[], None]) -> Measured:
        """Leave the gradient of this process's share of a batch: the mean over its units, to be averaged over shares.

        Where memory runs out in any process, all `clear` what they have and begin again with parts of half the size;
        the gradient is the same. Raises `TgoError` if not even one unit fits.
        """
        while True:
            before = self.point_state
            try:
                return self._of_parts(list(batch.split(self._size.size * self._members)))
            except OutOfMemory as error:
                said = str(error)
            self._require_whole_copies(said)
            self.point_state = before
            clear()
            self._size.halve(said)

    def _require_whole_copies(self, said: str) -> None:
        """Raise `TgoError` for shards: the others wait inside of the network for the process that ran out of memory."""
        if self._group.sharded:
            raise TgoError(
                f"memory ran out in process {self._group.rank} ({said}), and processes that share shards cannot agree "
                f"on smaller parts: set runtime.micro_batch_size below {self._size.size}."
            )

    def _together(self, work: Callable[[], T]) -> T:
        """The result of `work`. Raises `OutOfMemory` in every process if memory runs out in one."""
        if self._group.sharded:
            return attempt(work)
        return self._group.agree(lambda: attempt(work))

    @abc.abstractmethod
    def _of_parts(self, parts: Sequence[TrainingBatch]) -> Measured:
        """Add the gradients of all parts. Raises `OutOfMemory` in every process if memory runs out in one."""

    def _batch(
        self, part: TrainingBatch, point: Tensor | None = None, contrast: Predictions | None = None
    ) -> Batch:
        params, number = self._params, 0.0 if point is None else point
        return Batch(part.label, part.weight, part.score, params.beta, params.temperature, number, contrast)


def join(found: Sequence[tuple[Tensor, Values]]) -> tuple[Tensor, Values]:
    """The losses and values of parts as those of the whole share."""
    values = {name: torch.cat([each[name] for _, each in found]) for name in found[0][1]}
    return torch.cat([losses for losses, _ in found]), values


class LikelihoodGradient(Gradient):
    """That of an objective that is a function of the stored samples' log-likelihoods."""

    def __init__(
        self,
        forward: Forward,
        objective: Objective,
        params: FineTuneParams,
        accelerator: Accelerator,
        group: Group,
        units: int | None,
    ) -> None:
        super().__init__(objective, params, accelerator, group, units)
        self._forward = forward
        self._point = objective.reference_point

    def _of_parts(self, parts: Sequence[TrainingBatch]) -> Measured:
        parts = self._together(lambda: [part.to(self._accelerator.device) for part in parts])
        total = sum(map(len, parts)) // self._objective.loss_samples
        shared, point = self._point, None
        if shared is not None and len(parts) == 1 and not shared.mismatched:
            # One pass gives the point and the loss: the log-ratios of the whole share are there before the loss is.
            (part,) = parts
            likelihoods = self._together(lambda: self._forward.likelihoods(part))
            point = self._next_point(shared, [self._sums(shared, likelihoods.log_ratio, part)])
            found = self._together(lambda: [self._learn(part, likelihoods, point, total)])
        else:
            if shared is not None:
                point = self._next_point(shared, self._together(lambda: self._sums_of_all(shared, parts)))
            found = self._together(
                lambda: [self._learn(each, self._forward.likelihoods(each), point, total) for each in parts]
            )
        return Measured(*join(found), point)

    def _learn(
        self, part: TrainingBatch, likelihoods: Likelihoods, point: Tensor | None, total: int
    ) -> tuple[Tensor, Values]:
        """Add the gradient of one part; its losses and values."""
        batch = self._batch(part, point, likelihoods.contrast)
        loss, metrics = self._objective(likelihoods.policy, likelihoods.reference, batch)
        if likelihoods.level_weight is not None:
            loss = loss * likelihoods.level_weight[:: self._objective.loss_samples]
        self._accelerator.backward(loss.sum() / total)
        own = {"label": part.label, "weight": part.weight}
        return loss.detach(), self._errors(likelihoods) | metrics | own

    def _errors(self, likelihoods: Likelihoods) -> Values:
        temperature = self._params.temperature
        errors = {"policy_error": -temperature * likelihoods.policy.detach()}
        if likelihoods.reference is not None:
            errors["reference_error"] = -temperature * likelihoods.reference
        return errors

    def _sums_of_all(self, shared: ReferencePoint, parts: Sequence[TrainingBatch]) -> list[Tensor]:
        """What the reference point is made of, from forward passes without gradient."""
        return [self._sums(shared, self._forward.log_ratio(part, shared.mismatched), part) for part in parts]

    def _sums(self, shared: ReferencePoint, log_ratio: Tensor, part: TrainingBatch) -> Tensor:
        sums = in_float64(shared.sums(log_ratio, self._batch(part)))
        return to_device(sums, log_ratio.device) if log_ratio.is_cuda else sums

    def _next_point(self, shared: ReferencePoint, sums: Sequence[Tensor]) -> Tensor:
        total = self._group.sum(torch.stack(list(sums)).sum(0))
        value, self.point_state = shared.value(total, to_device(self.point_state, total.device))
        return torch.as_tensor(value, device=total.device)
