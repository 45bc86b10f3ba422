"""What an objective is: a pure function from log-likelihoods to one loss per sample (or pair), and what it needs."""

from __future__ import annotations

import abc
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from fine_tune.data.labels import BOTH
from fine_tune.data.units import AcrossThreshold, FixedUnits
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params.fine_tune import objective_options

if TYPE_CHECKING:
    from torch import Tensor

    from fine_tune.data.labels import Labels
    from fine_tune.data.units import Units
    from tgo_pipeline.params import FineTuneParams


class Contrast(Protocol):
    """Policy and reference prediction of one corruption, for losses that a log-likelihood alone does not give."""

    def mixed(self, share: Tensor) -> Tensor:
        """(B,) log-likelihoods of the prediction (1 - share) policy + share reference, `share` (B,)."""
        ...

    def distance(self) -> Tensor:
        """(B,) distances between the two predictions, in units of the error (not divided by T)."""
        ...

    def x0_error(self, share: Tensor) -> Tensor:
        """(B,) normalised errors of what the prediction (1 - share) policy + share reference denoises to.

        The mean squared error over the mean absolute one, which has no gradient and is at least 1e-5; shares may be
        below 0 or above 1. Raises `TgoError` for a family that predicts tokens.
        """
        ...


@dataclass(frozen=True)
class Batch:
    """What an objective may know of a batch besides its log-likelihoods; all tensors are (B,) float32."""

    label: Tensor
    """1 for a positive sample, 0 for a negative one; between them if soft. In pairs: winner 1, loser 0."""
    weight: Tensor
    """Confidence weights w = 1 + c|s - tau|, or what the objective's `prepare` made of them."""
    score: Tensor
    """The target score, or what the objective's `prepare` made of it."""
    beta: float = 1.0
    """Strength of the tie to the reference."""
    temperature: float = 1.0
    """T in log pi = -error / T, which the policy has already applied; -T log pi is the error again."""
    reference_point: Tensor | float = 0.0
    """What the objective's `ReferencePoint` gave for the whole batch: one number."""
    contrast: Contrast | None = None
    """Given to objectives that declare `needs_contrast`."""


class ReferencePoint(abc.ABC):
    """A number that the losses of all samples of a step share, made of log-ratios without gradient.

    Sums are added up over micro-batches and ranks, so that it is that of the whole batch however the batch is cut.
    All of it stays on the device: a step waits for a GPU once, at its end.
    """

    mismatched: ClassVar[bool] = False
    """True: it is fed the log-ratios of the batch's images under another prompt of the batch."""
    states: ClassVar[int] = 0
    """How many float64 numbers it keeps from step to step; a checkpoint holds them."""

    @abc.abstractmethod
    def sums(self, log_ratio: Tensor, batch: Batch) -> Tensor:
        """(k,) float64, additive over samples."""

    @abc.abstractmethod
    def value(self, sums: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """The number for this step, and the (states,) float64 for the next; `state` starts as zeros."""


@dataclass(frozen=True)
class NoOptions:
    """Of an objective that reads nothing from `fine_tune.options`."""


class Objective(abc.ABC):
    """A loss and what it declares to need; built from the `fine_tune` section."""

    Options: ClassVar[type] = NoOptions
    """A dataclass of what an objective of one's own reads from `fine_tune.options`."""

    needs_reference: ClassVar[bool] = True
    needs_contrast: ClassVar[bool] = False
    needs_reward: ClassVar[bool] = False
    """Whether it samples images while training and follows their scores' gradient (`fine_tune/reward_backprop`)."""
    pairs: ClassVar[bool] = False
    """Rows 2i and 2i + 1 of a batch are winner and loser of one pair, with the same corruption."""
    pushes_away: ClassVar[bool] = False
    """It raises the error of a negative sample or a loser, and `fine_tune.safeguard` may hold that back."""
    binds_differences: ClassVar[bool] = False
    """The errors of both sides may rise together: the guard watches their sum."""

    def __init__(self, params: FineTuneParams) -> None:
        self.params = params
        self.options: Any = objective_options(type(self), params.options)

    def __call__(
        self, policy_log_likelihood: Tensor, reference_log_likelihood: Tensor | None, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`loss`, refused with `TgoError` if it is not one number per sample (or pair) with metrics."""
        given: Any = self.loss(policy_log_likelihood, reference_log_likelihood, batch)
        expected = (len(batch.label) // self.loss_samples,)
        if not (isinstance(given, tuple) and len(given) == 2 and isinstance(given[1], dict)):
            raise TgoError(
                f"{type(self).__name__}.loss gave {type(given).__name__}: expected (losses, metrics)."
            )
        if getattr(given[0], "shape", None) != expected:
            shape = tuple(getattr(given[0], "shape", ())) or type(given[0]).__name__
            raise TgoError(f"{type(self).__name__}.loss gave losses of shape {shape}: expected {expected}.")
        return given

    @property
    def members(self) -> int:
        """Samples in a unit of a batch, which `batch_size` counts."""
        return max(self.loss_samples, 1 if self.params.safeguard is None else 2)

    @property
    def loss_samples(self) -> int:
        """Samples that one loss is of; the safeguard makes units of two samples that have a loss each."""
        return 2 if self.pairs else 1

    def units(self, labels: Labels, seed: int) -> Units:
        """Which samples of the prepared labels train together. Raises `TgoError` if there is no such unit.

        The safeguard weighs a negative sample against a positive one that is corrupted alike: it makes units of both.
        """
        if self.pairs:
            return FixedUnits.pairs(labels, self.params.pairs)
        if self.params.safeguard is not None:
            return AcrossThreshold(labels, negatives=1, by_distance=False, seed=seed)
        return FixedUnits.singles(labels)

    @property
    def sides(self) -> frozenset[int]:
        """Labels of the samples that it trains on; the others never enter a batch."""
        return BOTH

    @property
    def prefixes(self) -> Mapping[int, str]:
        """Text put before the prompt of a sample, by label."""
        return {}

    @property
    def sampling(self) -> Mapping[str, str]:
        """How the result wants to be sampled: `prompt_prefix`, `negative_prompt`."""
        return {}

    @property
    def reference_point(self) -> ReferencePoint | None:
        """The number that a step's samples share, if any."""
        return None

    def prepare(self, labels: Labels) -> Labels:
        """What it makes of the whole data set before training. Raises `TgoError` if one of its sides is empty.

        Pairs are made of scores, and both of a pair may be on one side of the threshold: they take all samples.
        """
        return labels if self.pairs else labels.only(self.sides)

    @abc.abstractmethod
    def loss(
        self, policy_log_likelihood: Tensor, reference_log_likelihood: Tensor | None, batch: Batch
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Map (B,) log-likelihoods to losses and metrics; the trainer takes the mean of the losses.

        (B,) losses, or (B / 2,) for pairs; metrics are (B,) and carry no gradient.
        """


def preference_metrics(log_ratio: Tensor, label: Tensor) -> dict[str, Tensor]:
    """`log_ratio` and `accuracy`: 1 where the log-ratio has the label's sign, one half where it is 0."""
    detached = log_ratio.detach()
    return {"log_ratio": detached, "accuracy": (1 + ((2.0 * label - 1.0) * detached).sign()) / 2}
