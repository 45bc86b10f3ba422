"""The options of objectives that learn from the gradient of a reward, each a section of `fine_tune`."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params.checks import not_negative, positive

if TYPE_CHECKING:
    from tgo_pipeline.params import Params

OBJECTIVES = ("align_prop", "draft", "draft_lv", "refl")
"""Those of this package, each with a section of its name."""
WITHOUT_GRADIENT = {"mean_rank": "ranks", "majority": "votes"}
"""Combinations of rewards that are steps, and what of."""


@dataclass(frozen=True, kw_only=True)
class RewardGradientParams:
    """What all of them share: sampling while training, and the loss that the target score s becomes.

    `steps`, `guidance_scale` and `eta` (DDIM's noise; flow models have none) are those of sampling. `loss` is
    scale * (margin - s) (`linear`), scale * max(0, margin - s) (`relu`) or scale * |margin - s| (`absolute`). `kl`
    weighs the mean squared distance of predictions to the reference's, `pretraining` the model's own error on the
    positive training images.
    """

    steps: int = 50
    guidance_scale: float = 7.5
    eta: float = 0.0
    loss: Literal["linear", "relu", "absolute"] = "linear"
    margin: float = 0.0
    scale: float = 1.0
    kl: float = 0.0
    pretraining: float = 0.0

    def __post_init__(self) -> None:
        positive(steps=self.steps, scale=self.scale)
        not_negative(
            guidance_scale=self.guidance_scale, eta=self.eta, kl=self.kl, pretraining=self.pretraining
        )

    def _within(self, **values: float) -> None:
        """Refuse a step that sampling does not have; the first is 0."""
        for name, value in values.items():
            if not 0 <= value < self.steps:
                raise TgoError(
                    f"{name} is {value:g}: with {self.steps} steps it must be from 0 to {self.steps - 1}."
                )


@dataclass(frozen=True, kw_only=True)
class AlignPropParams(RewardGradientParams):
    """AlignProp: the gradient passes the steps from a random one on, the same for a whole batch.

    That step is a normal number (`gaussian`, of `mean` and `deviation`) cut to a whole one of at least 1, a uniform one
    of at least `first` (`uniform`), or `first` itself (`fixed`).
    """

    guidance_scale: float = 5.0
    eta: float = 1.0
    margin: float = 1.0
    scale: float = 0.01
    truncation: Literal["gaussian", "uniform", "fixed"] = "gaussian"
    mean: float = 42.0
    deviation: float = 5.0
    first: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(deviation=self.deviation)
        if self.truncation == "gaussian":
            self._within(mean=self.mean)
            if self.steps < 2:
                raise TgoError("steps is 1: with truncation gaussian the gradient begins at step 1 or later.")
        else:
            self._within(first=self.first)


@dataclass(frozen=True, kw_only=True)
class DraftParams(RewardGradientParams):
    """DRaFT-K: the gradient passes the `last` K steps."""

    last: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(last=self.last)
        if self.last > self.steps:
            raise TgoError(f"last is {self.last}: sampling has {self.steps} steps.")


@dataclass(frozen=True, kw_only=True)
class DraftLvParams(RewardGradientParams):
    """DRaFT-LV: a sample is noised again for the last step, `repeats` times; the gradient is the mean of theirs."""

    repeats: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        positive(repeats=self.repeats)


@dataclass(frozen=True, kw_only=True)
class ReflParams(RewardGradientParams):
    """ReFL: the image that is predicted at one random step from `earliest` to `latest`, both included."""

    steps: int = 40
    guidance_scale: float = 1.0
    eta: float = 1.0
    loss: Literal["linear", "relu", "absolute"] = "relu"
    margin: float = 2.0
    scale: float = 0.001
    earliest: int = 30
    latest: int = 39

    def __post_init__(self) -> None:
        super().__post_init__()
        self._within(earliest=self.earliest, latest=self.latest)
        if self.earliest > self.latest:
            raise TgoError(f"earliest is {self.earliest} and latest {self.latest}: it must not be later.")


def check(params: Params) -> None:
    """Raise `TgoError` if an objective of these cannot be trained with the other parameters."""
    tuning, target = params.fine_tune, params.target.reward
    if tuning.objective not in OBJECTIVES:
        return
    needs = f"fine_tune.objective is {tuning.objective}, which needs a target with a gradient"
    if target in WITHOUT_GRADIENT:
        raise TgoError(
            f"{needs}: {target} is made of {WITHOUT_GRADIENT[target]}, which have none; choose one reward, or mean_z."
        )
    if not params.target_is_scored_anywhere:
        raise TgoError(f"{needs}: feedback of people has none; choose a target of reward models alone.")
    for name in (name for name, spec in params.target_specs.items() if name != spec.column):
        raise TgoError(
            f"{needs}: {name} is a further number of {params.target_specs[name].column}, and has none."
        )
    changed = {
        "caption_dropout": tuning.caption_dropout,
        "draws": tuning.draws - 1,
        "by_prompt": tuning.by_prompt,
    }
    for name in (name for name, value in changed.items() if value):
        raise TgoError(
            f"fine_tune.{name} is given, but {tuning.objective} samples an image of its own for every row of a batch, "
            "of the prompt as it is: leave it out."
        )
    of_target = {spec.column for spec in params.target_specs.values()}
    known = {*params.score.rewards, *params.evaluate.rewards} - of_target
    _check_held_out(tuning.held_out, known)


def _check_held_out(names: Collection[str], known: Collection[str]) -> None:
    for name in names:
        if name not in known:
            raise TgoError(
                f"fine_tune.held_out names {name!r}: it must be a reward of score.rewards or evaluate.rewards that is "
                f"no part of the target ({', '.join(sorted(known)) or 'there is none'})."
            )
