"""AlignProp, DRaFT-K, DRaFT-LV and ReFL: which steps of sampling a gradient passes, and what a score costs."""

from __future__ import annotations

import abc
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fine_tune.objectives.base import Batch, Objective

if TYPE_CHECKING:
    from torch import Tensor

    from fine_tune.data.labels import Labels
    from tgo_pipeline.params.reward_gradient import (
        AlignPropParams,
        DraftLvParams,
        DraftParams,
        ReflParams,
        RewardGradientParams,
    )


@dataclass(frozen=True)
class Route:
    """Where the gradient of a batch goes. Before `first` sampling has none."""

    first: int
    """The first step, from 0, that the gradient passes; the number of steps if it passes none of them."""
    jumps: bool = False
    """Whether what is predicted at `first` is the image, in place of what the steps after it would give."""
    repeats: int = 0
    """How often the sample is noised again for the last step, which the gradient then passes."""


class RewardObjective(Objective):
    """An objective that samples images itself; of the data set it takes prompts, seeds and the size of images."""

    needs_reward = True

    @property
    @abc.abstractmethod
    def own(self) -> RewardGradientParams:
        """Its section of the parameters."""

    @abc.abstractmethod
    def route(self, seed: int) -> Route:
        """Where the gradient of a batch goes; random draws come from `seed` alone."""

    @property
    def usual(self) -> Route:
        """The route whose work a plan counts."""
        return self.route(0)

    @property
    def longest(self) -> Route:
        """The route whose memory a plan counts."""
        return self.usual

    def prepare(self, labels: Labels) -> Labels:
        """All samples: their labels play no part but in `pretraining`, where it is 0 for negative ones."""
        return labels

    def cost(self, score: Tensor) -> Tensor:
        """(B,) losses of target scores (B,)."""
        missing = self.own.margin - score
        shaped = {"linear": lambda: missing, "relu": missing.relu, "absolute": missing.abs}[self.own.loss]()
        return self.own.scale * shaped

    def loss(
        self, policy_log_likelihood: Tensor, reference_log_likelihood: Tensor | None, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """(B,) `pretraining` times the model's own error on positive training images."""
        error = -batch.temperature * policy_log_likelihood
        return self.own.pretraining * batch.label * error, {}


class AlignProp(RewardObjective):
    """AlignProp (arXiv 2310.03739; official code): all steps from a random one on, drawn again for every batch."""

    @property
    def own(self) -> AlignPropParams:
        return self.params.align_prop

    def route(self, seed: int) -> Route:
        own, rng = self.own, np.random.default_rng(seed)
        if own.truncation == "fixed":
            return Route(own.first)
        if own.truncation == "uniform":
            return Route(int(rng.integers(own.first, own.steps)))
        while not 1 <= (first := int(rng.normal(own.mean, own.deviation))) < own.steps:
            pass
        return Route(first)

    @property
    def usual(self) -> Route:
        """The mean one."""
        own = self.own
        middle = {"gaussian": own.mean, "uniform": (own.first + own.steps - 1) / 2, "fixed": own.first}
        return Route(int(middle[own.truncation]))

    @property
    def longest(self) -> Route:
        """The earliest beginning; of a normal number the one that 1 in 40 batches go beyond."""
        own = self.own
        return Route(max(1, int(own.mean - 2 * own.deviation)) if own.truncation == "gaussian" else own.first)


class Draft(RewardObjective):
    """DRaFT-K (arXiv 2309.17400): the last K steps."""

    @property
    def own(self) -> DraftParams:
        return self.params.draft

    def route(self, seed: int) -> Route:
        return Route(self.own.steps - self.own.last)


class DraftLv(RewardObjective):
    """DRaFT-LV (arXiv 2309.17400): the last step, from the finished sample noised again several times."""

    @property
    def own(self) -> DraftLvParams:
        return self.params.draft_lv

    def route(self, seed: int) -> Route:
        return Route(self.own.steps, repeats=self.own.repeats)


class Refl(RewardObjective):
    """ReFL (arXiv 2304.05977; code of image-reward): the image predicted at one late step, drawn for every batch."""

    @property
    def own(self) -> ReflParams:
        return self.params.refl

    def route(self, seed: int) -> Route:
        own = self.own
        return Route(int(np.random.default_rng(seed).integers(own.earliest, own.latest + 1)), jumps=True)

    @property
    def usual(self) -> Route:
        """The one in the middle."""
        return Route((self.own.earliest + self.own.latest) // 2, jumps=True)
