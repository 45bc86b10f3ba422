"""The gradient of a batch through reward, decoder and sampling, in parts that fit into memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from fine_tune.data.batches import TrainingBatch
from fine_tune.policies.latent import LatentPolicy, decode
from fine_tune.reward_backprop.objectives import RewardObjective, Route
from fine_tune.reward_backprop.rollout import Rollout, Sampled
from fine_tune.training.gradient import Gradient, Measured, Values, join

if TYPE_CHECKING:
    from fine_tune.distributed.processes import Group
    from fine_tune.reward_backprop.scores import TargetScore
    from fine_tune.training.accelerator import Accelerator
    from tgo_pipeline.params import FineTuneParams, RuntimeParams

DRIFT, SCORE_COST, PRETRAINING = "drift", "reward_loss", "pretraining_loss"


@dataclass(frozen=True)
class Chain:
    """What lies behind the latents."""

    vae: Any
    score: TargetScore


class RewardGradient(Gradient):
    """Samples the prompts of a batch, and leaves the gradient of what their scores cost in the network's parameters."""

    def __init__(
        self,
        policy: LatentPolicy,
        objective: RewardObjective,
        chain: Chain,
        params: FineTuneParams,
        runtime: RuntimeParams,
        accelerator: Accelerator,
        group: Group,
    ) -> None:
        super().__init__(objective, params, accelerator, group, runtime.micro_batch_size)
        self._recompute = runtime.gradient_checkpointing
        self._rollout = Rollout(policy, objective.own, accelerator, self._recompute)
        self._policy = policy
        self._reward_objective = objective
        self._chain = chain
        chain.vae.requires_grad_(False)
        if self._recompute and getattr(chain.vae, "_supports_gradient_checkpointing", False):
            chain.vae.enable_gradient_checkpointing()

    def _of_parts(self, parts: Sequence[TrainingBatch]) -> Measured:
        parts = self._together(lambda: [part.to(self._accelerator.device) for part in parts])
        total = sum(map(len, parts))
        route = self._reward_objective.route(parts[0].step_seed)
        found = self._together(lambda: [self._learn(part, route, total) for part in parts])
        return Measured(*join(found), None)

    def _learn(self, part: TrainingBatch, route: Route, total: int) -> tuple[Tensor, Values]:
        """Add the gradient of one part; its losses and values, means over the passes of the route."""
        passes = max(1, route.repeats)
        found: list[Values] = []
        for sampled in self._rollout.sample(part, route):
            loss, values = self._cost(sampled, part.prompts)
            self._accelerator.backward(loss.sum() / (total * passes))
            found.append(values)
            del sampled, loss
        values = {name: torch.stack([each[name] for each in found]).mean(0) for name in found[0]}
        losses = values[SCORE_COST] + self._reward_objective.own.kl * values[DRIFT]
        if self._reward_objective.own.pretraining:
            values[PRETRAINING] = self._pretrain(part, total)
            losses = losses + values[PRETRAINING]
        return losses, values

    def _cost(self, sampled: Sampled, prompts: Sequence[str]) -> tuple[Tensor, Values]:
        """(B,) losses with a gradient, and what was measured."""
        score, metrics = self._chain.score(self._decode(sampled.latents), prompts)
        cost = self._reward_objective.cost(score)
        values = {**metrics, SCORE_COST: cost.detach(), DRIFT: sampled.drift.detach()}
        return cost + self._reward_objective.own.kl * sampled.drift, values

    def _decode(self, latents: Tensor) -> Tensor:
        """(B, 3, H, W) in [0, 1]; one image at a time where activations are made again."""
        vae = self._chain.vae
        if not self._recompute:
            return decode(vae, latents)
        rows: list[Any] = [checkpoint(decode, vae, row, use_reentrant=False) for row in latents.split(1)]
        return torch.cat(rows)

    def _pretrain(self, part: TrainingBatch, total: int) -> Tensor:
        corruption = self._policy.corrupt(part.images, part.conditions, [seeds[0] for seeds in part.seeds])
        with self._accelerator.autocast():
            likelihood = self._policy.log_likelihood(self._policy.predict(corruption), corruption)
        losses, _ = self._reward_objective(likelihood, None, self._batch(part))
        self._accelerator.backward(losses.sum() / total)
        return losses.detach()
