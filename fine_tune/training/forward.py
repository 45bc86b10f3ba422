"""One batch through policy and reference: log-likelihoods of samples, and what a loss may contrast."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fine_tune.data.batches import TrainingBatch
from fine_tune.objectives.base import Objective
from fine_tune.policies.base import Policy
from fine_tune.training.accelerator import Accelerator
from fine_tune.training.importance import Importance
from tgo_pipeline.devices import to_device
from tgo_pipeline.params import FineTuneParams


@dataclass(frozen=True)
class Predictions:
    """Policy and reference prediction of the same corruptions: an `objectives.base.Contrast`."""

    model: Policy
    corruption: Any
    policy: Tensor
    reference: Tensor
    draws: int

    def mixed(self, share: Tensor) -> Tensor:
        """(B,) log-likelihoods of (1 - share) policy + share reference."""
        likelihoods = self.model.log_likelihood(self._mixture(share), self.corruption)
        return mean_over_draws(likelihoods, self.draws)

    def _mixture(self, share: Tensor) -> Tensor:
        rows = share.repeat_interleave(self.draws).view(-1, *[1] * (self.policy.dim() - 1))
        return (1 - rows) * self.policy + rows * self.reference

    def x0_error(self, share: Tensor) -> Tensor:
        """(B,) normalised errors of what the mixtures denoise to."""
        return mean_over_draws(self.model.x0_error(self._mixture(share), self.corruption), self.draws)

    def distance(self) -> Tensor:
        """(B,) distances, in units of the error."""
        rows = self.model.distance(self.policy, self.reference, self.corruption)
        return mean_over_draws(rows, self.draws)


@dataclass(frozen=True)
class Likelihoods:
    """(B,) log-likelihoods of samples, each the mean over its draws."""

    policy: Tensor
    reference: Tensor | None
    contrast: Predictions | None = None
    level_weight: Tensor | None = None
    """(B,) of the losses, where levels are drawn by importance."""

    @property
    def log_ratio(self) -> Tensor:
        """(B,) without gradient; raises ValueError without a reference."""
        if self.reference is None:
            raise ValueError("a log-ratio needs the reference's log-likelihood")
        return (self.policy - self.reference).detach()


class Forward:
    """Runs the networks for an objective: the reference only if it is needed, each on one call for a whole part."""

    def __init__(
        self,
        policy: Policy,
        objective: Objective,
        params: FineTuneParams,
        accelerator: Accelerator,
        importance: Importance | None = None,
    ) -> None:
        self._policy = policy
        self._objective = objective
        self._draws = params.draws
        self._safeguard = params.safeguard
        self._accelerator = accelerator
        self._importance = importance

    def likelihoods(self, part: TrainingBatch) -> Likelihoods:
        """Log-likelihoods with gradient for the policy."""
        corruption, weight = self._corrupt(part, part.conditions)
        before = reference = None
        with self._accelerator.autocast():
            if self._objective.needs_reference:
                with self._policy.reference():
                    before, reference = self._score(corruption)
            prediction, likelihood = self._score(corruption, held_back=self._safeguard is not None)
        if before is None or not self._objective.needs_contrast:
            return Likelihoods(likelihood, reference, level_weight=weight)
        contrast = Predictions(self._policy, corruption, prediction, before, self._draws)
        return Likelihoods(likelihood, reference, contrast, weight)

    @torch.no_grad()
    def log_ratio(self, part: TrainingBatch, mismatched: bool) -> Tensor:
        """(B,) log-ratios without gradient, of the images under their own prompts or the mismatched ones."""
        corruption, _ = self._corrupt(part, part.other_conditions if mismatched else part.conditions)
        with self._accelerator.autocast():
            _, policy = self._score(corruption)
            with self._policy.reference():
                _, reference = self._score(corruption)
        return policy - reference

    def _score(self, corruption: Any, *, held_back: bool = False) -> tuple[Tensor, Tensor]:
        prediction = self._policy.predict(corruption)
        rows = self._policy.log_likelihood(prediction, corruption)
        if held_back:
            share = self._kept_share(prediction, corruption)
            rows = share * rows + (1 - share) * rows.detach()
        return prediction, mean_over_draws(rows, self._draws)

    def _kept_share(self, prediction: Tensor, corruption: Any) -> Tensor:
        """(B * draws,) which part of each row's gradient is kept: 1 of the positive sample of a unit.

        Of a negative one (1 - mu) |g+|^2 / <g-, g+>, from 0 to 1, where the gradients g of both errors with respect
        to the predictions point the same way, else 1 (Diffusion-SDPO, arXiv 2511.03317, official code): to first order
        the step away from it then undoes no more than a share 1 - mu of the step towards the positive one.
        """
        leaf = prediction.detach().requires_grad_()
        with torch.enable_grad():
            (gradient,) = torch.autograd.grad(self._policy.log_likelihood(leaf, corruption).sum(), leaf)
        units = gradient.view(-1, self._objective.members, self._draws, gradient[0].numel())
        positive = units[:, :1]
        along = (units * positive).sum(-1)
        most = (1 - (self._safeguard or 0.0)) * positive.square().sum(-1)
        share = torch.where(along > 0, (most / along).clamp(0, 1), torch.ones_like(along))
        share[:, 0] = 1.0
        return share.flatten()

    def _corrupt(self, part: TrainingBatch, conditions: dict[str, Tensor]) -> tuple[Any, Tensor | None]:
        """The corruption of a part, and the weights of its losses."""
        images, repeated = (
            {name: t.repeat_interleave(self._draws, 0) if self._draws > 1 else t for name, t in each.items()}
            for each in (part.images, conditions)
        )
        seeds, weight = [seed for each in part.seeds for seed in each], None
        if self._importance is not None:
            seeds, weights = self._importance.draw(self._policy, images, repeated, seeds)
            weight = to_device(torch.from_numpy(weights).float(), self._accelerator.device)
        return self._policy.corrupt(images, repeated, seeds), weight


def mean_over_draws(values: Tensor, draws: int) -> Tensor:
    """(B * draws,) values of rows to (B,) means of samples."""
    return values if draws == 1 else values.view(-1, draws).mean(1)
