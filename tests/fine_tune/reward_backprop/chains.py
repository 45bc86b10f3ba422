"""A tiny pipeline with its policy and a batch of prompts, and a smooth reward that can be written down."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from fine_tune.data.batches import TrainingBatch
from fine_tune.distributed.processes import Group
from fine_tune.objectives import make_objective
from fine_tune.policies import policy_class
from fine_tune.reward_backprop.gradient import Chain, RewardGradient
from fine_tune.reward_backprop.scores import TargetScore, Unit
from fine_tune.training.accelerator import Accelerator
from tests.fine_tune.world import random_image
from tests.tiny import IMAGE_SIZE
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.params import FineTuneParams, RuntimeParams
from tgo_pipeline.params.parsing import parse

PROMPTS = ["a small red ring", "blue", "a cat"]
SEEDS = [11, 12, 13]
STEP_SEED = 5


def smooth(images: Tensor, prompts: Any = None) -> Tensor:
    """(B,) red less squared green, and the texture of blue."""
    red, green, blue = images.unbind(1)
    texture = (blue[:, 1:] - blue[:, :-1]).square().mean((1, 2))
    return 3 * red.mean((1, 2)) - green.square().mean((1, 2)) + 2 * texture


@dataclasses.dataclass
class World:
    """What a reward's gradient passes."""

    pipeline: Any
    policy: Any
    objective: Any
    part: TrainingBatch
    gradient: RewardGradient

    def trained(self) -> dict[str, Tensor]:
        return self.policy.trainable()

    def backward(self) -> tuple[dict[str, Tensor], Any]:
        """The gradient of the batch by name, and what was measured."""
        self.policy.network.zero_grad()
        measured = self.gradient.of(self.part, self.policy.network.zero_grad)
        found = {name: each.grad.clone() for name, each in self.trained().items() if each.grad is not None}
        return found, measured


def build(
    folder: Path,
    objective: str,
    options: dict[str, Any],
    runtime: dict[str, Any] | None = None,
    reward: Any = None,
    pipeline: Any = None,
    **fine_tune: Any,
) -> World:
    """The world of one objective with its own options; `reward` is one in place of `smooth`."""
    raw = {"objective": objective, objective: options, "batch_size": len(PROMPTS), **fine_tune}
    params = parse(FineTuneParams, raw)
    pipeline = pipeline or load_pipeline(str(folder))
    own = make_objective(params)
    kind = policy_class(pipeline)
    part = batch(kind.encoder(pipeline, (IMAGE_SIZE, IMAGE_SIZE)))
    policy = kind.build(pipeline, params, seed=3, with_reference=own.needs_reference)
    chosen = reward or SimpleNamespace(score_tensor=smooth)
    chain = Chain(pipeline.vae, TargetScore({"own": chosen}, {"own": Unit()}))
    machinery = RuntimeParams(device="cpu", **(runtime or {}))
    accelerator = Accelerator("fp32", torch.device("cpu"))
    gradient = RewardGradient(policy, own, chain, params, machinery, accelerator, Group())  # type: ignore[arg-type]
    return World(pipeline, policy, own, part, gradient)


def batch(encoder: Any) -> TrainingBatch:
    count = len(PROMPTS)
    label, ones = torch.tensor([1.0, 0.0, 1.0]), torch.ones(count)
    return TrainingBatch(
        encoder.images([random_image(number) for number in range(count)]),
        encoder.prompts(PROMPTS),
        encoder.prompts([""] * count),
        label,
        ones,
        ones,
        [[seed] for seed in SEEDS],
        list(PROMPTS),
        STEP_SEED,
    )


def away(world: World, size: float = 0.02) -> None:
    """Move the policy off its reference, so that it drifts."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in world.trained().values():
            parameter += size * torch.randn(parameter.shape, generator=generator)
