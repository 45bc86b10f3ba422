"""What an update with a reward's gradient takes, imagined: real sampling, decoder and rewards, without content."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import torch

from fine_tune.data.batches import TrainingBatch
from fine_tune.distributed.processes import Group
from fine_tune.objectives import make_objective
from fine_tune.reward_backprop.gradient import Chain, RewardGradient
from fine_tune.reward_backprop.objectives import Route
from fine_tune.reward_backprop.rollout import Rollout
from tgo_pipeline.params import Params
from tgo_pipeline.params.reward_gradient import DraftParams
from tgo_pipeline.planning.meter import Cost, Meter, backward, rounded
from tgo_pipeline.planning.scoring import Differentiable, differentiable

USUAL_PROMPT = "a photograph of an old lighthouse on a cliff above the sea, evening light"


def _nothing() -> Chain:
    """Latents as images, and their mean as the score."""
    vae = SimpleNamespace(
        config={"scaling_factor": 1.0},
        dtype=torch.float32,
        decode=lambda latents, return_dict: (latents,),
        requires_grad_=lambda _: None,
    )

    def score(images: torch.Tensor, _: Any) -> Any:
        means = images.mean((1, 2, 3))
        return means, {"reward": means.detach()}

    return Chain(vae, score)  # type: ignore[arg-type]


_NOTHING = _nothing()


class _Rollout(Rollout):
    """Starts from latents without content, where a generator draws none."""

    def _noise(self, seeds: Any, like: torch.Tensor) -> Any:
        return SimpleNamespace(draw=lambda: torch.randn_like(like))


def target(params: Params) -> Differentiable:
    """The target's rewards without content. Raises `TgoError` for one whose files cannot be read."""
    return differentiable(params.target_specs, [USUAL_PROMPT])


@dataclass(frozen=True)
class Imagined:
    """A network in training and what lies behind it, all without content."""

    vae: Any
    rewards: Differentiable
    policy: Any
    params: Params

    @property
    def networks(self) -> list[Any]:
        """What is held besides the policy's."""
        return [self.vae, *self.rewards.networks]

    def cost(self, meter: Meter, batch: TrainingBatch) -> Cost:
        """Operations and peak of an update of these rows, which go through at once.

        A step more, with or without gradient, costs what the difference of two short samplings does.
        """
        objective: Any = make_objective(self.params.fine_tune)
        for parameter in self.policy.trainable().values():
            parameter.grad = torch.zeros_like(parameter)  # as every part but the first finds them
        whole, peak = self._run(meter, batch, 0, 1, Chain(self.vae, self.rewards))  # type: ignore[arg-type]
        # what is behind the latents is the same in all: left out, it is a matter of seconds
        (one, low), (more, _), (two, high) = (
            self._run(meter, batch, *each, _NOTHING) for each in ((0, 1), (1, 1), (0, 2))
        )
        usual: Route = objective.usual
        flops = usual.first * (more - one) + max(1, usual.repeats) * whole
        flops += (self._through(usual) - 1) * (two - one)
        return Cost(flops, peak + (self._through(objective.longest) - 1) * max(0, high - low))

    def _through(self, route: Route) -> int:
        """How many steps in a row the gradient of a route passes."""
        steps = _own(self.params).steps
        return 1 if route.jumps or route.repeats else steps - route.first

    def _run(
        self, meter: Meter, batch: TrainingBatch, before: int, last: int, chain: Chain
    ) -> tuple[float, int]:
        """(operations, peak) of sampling in `before` steps without gradient and `last` with."""
        own, tuning = _own(self.params), self.params.fine_tune
        short = DraftParams(
            steps=before + last,
            last=last,
            guidance_scale=own.guidance_scale,
            kl=own.kl,
            pretraining=own.pretraining,
        )
        changed = dataclasses.replace(tuning, objective="draft", draft=short)
        objective: Any = make_objective(changed)

        def learn(loss: torch.Tensor) -> None:
            with rounded(tuning.precision):  # what is computed again; too little for decoder and rewards
                backward(loss)

        accelerator: Any = SimpleNamespace(autocast=lambda: rounded(tuning.precision), backward=learn)
        runtime = dataclasses.replace(self.params.runtime, micro_batch_size=None)
        gradient = RewardGradient(self.policy, objective, chain, changed, runtime, accelerator, Group())
        gradient._rollout = _Rollout(self.policy, short, accelerator, runtime.gradient_checkpointing)
        start = meter.flops
        meter.restart_peak()
        gradient._learn(batch, objective.route(0), len(batch))
        return meter.flops - start, meter.peak_bytes


def _own(params: Params) -> Any:
    objective: Any = make_objective(params.fine_tune)
    return objective.own
