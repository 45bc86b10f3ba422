"""The gradient of the first update, sketched batch by batch in every bin of noise levels.

A batch is a file, so that a kill loses one; processes that hold whole copies of the network share the batches out.
"""

from __future__ import annotations

import dataclasses
import logging
import math
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fine_tune import noise_levels
from fine_tune.data.batches import TrainingBatch, TrainingData
from fine_tune.data.tensors import read_tensors, write_tensors
from fine_tune.distributed.networks import Spread
from fine_tune.distributed.processes import Group
from fine_tune.noise_levels.sketch import Sketch
from fine_tune.objectives.base import Objective
from fine_tune.policies.base import Policy
from fine_tune.training.accelerator import Accelerator
from fine_tune.training.forward import Forward
from fine_tune.training.gradient import Gradient, LikelihoodGradient
from tgo_pipeline.errors import TgoError
from tgo_pipeline.executors.progress import Bar
from tgo_pipeline.params import FineTuneParams, RuntimeParams
from tgo_pipeline.params.fine_tune import ValidationParams
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.storage.shards import Mark, Shard, Stop, state
from tgo_pipeline.storage.writing import atomic

log = logging.getLogger("tgo")
DRAWS, AT_ONCE = 2048, 64
"""Draws of a level that place the edges of the bins, to 1 % of all draws at most."""
SKETCHES = "sketches"


def planned(batches: int, mark: Mark) -> list[Shard]:
    """The files of the batches."""
    return [
        Shard("batch", number, batches, mark.fingerprint, ".safetensors", mark.inputs)
        for number in range(batches)
    ]


class Measuring:
    """A model before its first update, with one gradient for every bin."""

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        data: TrainingData,
        params: FineTuneParams,
        runtime: RuntimeParams,
        accelerator: Accelerator,
        group: Group,
    ) -> None:
        """`data` has batches of `params.batch_size` units.

        Raises `TgoError` for a family that draws from all levels, or from one alone.
        """
        self.group = group
        self._data = data
        self._size = params.batch_size
        self._needs_reference = objective.needs_reference
        self._accelerator = accelerator
        self.edges = edges(policy, data.batch(0))
        if runtime.gradient_checkpointing:
            policy.save_memory()
        Spread(policy, group, accelerator.device)
        self._trained = policy.trainable()
        together = group if group.sharded else Group()
        self._gradients = [
            LikelihoodGradient(
                Forward(policy.at_levels(levels), objective, params, accelerator),
                objective,
                params,
                accelerator,
                together,
                runtime.micro_batch_size,
            )
            for levels in zip(self.edges, self.edges[1:], strict=False)
        ]
        self._together = together
        self._reduce = Sketch(accelerator.device)

    def cost(self, batches: int, params: FineTuneParams) -> str:
        """What it takes, said before it begins."""
        units = batches * (len(self.edges) - 1) * self._size
        samples = units * self._data.members * params.draws
        reference = f" and {samples:,} of the reference" if self._needs_reference else ""
        return (
            f"{batches} batches of {self._size} in {len(self.edges) - 1} ranges of levels: {samples:,} network calls "
            f"with their gradient{reference}; as much as {units / params.batch_size:.0f} updates"
        )

    def sketches(self, number: int) -> Tensor:
        """(bins, width) of a batch: the first one of epoch `number`, so that batches are independent of each other.

        All bins see the same samples and, but for the level, the same noise.
        """
        step = math.ceil(number * len(self._data) / self._size)
        batch = self._data.batch(step, self._together.rank, self._together.size)
        found = torch.stack([self._sketch(gradient, batch) for gradient in self._gradients])
        self._clear()
        return found

    def _sketch(self, gradient: Gradient, batch: TrainingBatch) -> Tensor:
        while True:
            self._clear()
            gradient.of(batch, self._clear)
            scaler = self._accelerator.scaler
            scale = 1.0 if scaler is None else scaler.get_scale()
            found = self._reduce(p.grad for p in self._trained.values() if p.grad is not None) / scale
            if torch.isfinite(found).all():
                return found
            if scaler is None or scale < 2:
                raise TgoError(
                    "the gradient of the first update is not finite, so no noise level can be measured: raise "
                    "fine_tune.temperature, or use precision fp32."
                )
            scaler.update(scale / 2)

    def _clear(self) -> None:
        for parameter in self._trained.values():
            parameter.grad = None


def edges(policy: Policy, batch: TrainingBatch) -> list[float]:
    """Levels from 0 to 1 between which training draws equally often, to three decimals."""
    drawn = torch.cat([policy.noise_level(each) for each in _draws(policy, batch)]).double().numpy()
    inner = np.quantile(drawn, np.linspace(0, 1, noise_levels.BINS + 1)[1:-1]).round(3)
    found = [0.0, *np.unique(inner[(inner > 0) & (inner < 1)]).tolist(), 1.0]
    if len(found) < 3:
        raise TgoError(f"{type(policy).__name__} draws one noise level alone: there is no range to choose.")
    return found


def _draws(policy: Policy, batch: TrainingBatch) -> Iterator[Any]:
    def repeated(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: tensor[:1].expand(AT_ONCE, *tensor.shape[1:]) for name, tensor in tensors.items()}

    images, conditions = repeated(batch.images), repeated(batch.conditions)
    for start in range(0, DRAWS, AT_ONCE):
        seeds = [derive_seed(0, str(number), "noise level") for number in range(start, start + AT_ONCE)]
        yield policy.corrupt(images, conditions, seeds)


def run(folder: Path, shards: Sequence[Shard], measuring: Measuring, stop: Stop) -> None:
    """Sketch the batches that have no file. Raises `Interrupted` after a signal, with the batches finished so far."""
    group = measuring.group
    waiting = group.on_main(lambda: [shard for shard in shards if state(folder, shard) != "done"])
    mine = waiting if group.sharded else group.share(waiting)
    started_s = time.monotonic()
    with Bar("measuring noise levels", len(mine)) as bar:
        for done, shard in enumerate(mine, start=1):
            found = measuring.sketches(shard.index)
            if group.is_main or not group.sharded:
                _write(folder / shard.name, shard.mark, found)
            bar.advance()
            if done == 1 and group.is_main:
                left_min = (time.monotonic() - started_s) * (len(mine) - 1) / 60
                log.info("the first batch is measured: about %.1f minutes left", left_min)
            if group.any(stop.requested) if group.sharded else stop.requested:
                break
    group.agree(stop.check)


def _write(path: Path, mark: Mark, found: Tensor) -> None:
    with atomic(path) as temporary:
        write_tensors({SKETCHES: found.float()}, temporary, mark.entries())


def read(folder: Path, shards: Sequence[Shard]) -> np.ndarray:
    """(batches, bins, width) float64 of files that are there."""
    return np.stack([read_tensors(folder / shard.name)[0][SKETCHES].double().numpy() for shard in shards])


def small(params: FineTuneParams, units: int, group: Group) -> FineTuneParams:
    """The parameters with a batch of `UNITS` at most, which shards of a network share out, and no images drawn.

    What is known of a gradient depends on how many samples were seen, not on how they were cut into batches.
    """
    size = max(1, min(noise_levels.UNITS, params.batch_size, units))
    if group.sharded:
        size = max(group.size, size // group.size * group.size)
    return dataclasses.replace(params, batch_size=size, validation=ValidationParams(), reestimate=None)
