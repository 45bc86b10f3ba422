"""The `fine_tune` section: the objective, its optimisation, and how a family measures a log-likelihood."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, cast

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params.checks import Precision, fraction, named, not_negative, positive
from tgo_pipeline.params.objectives import (
    AwrParams,
    BcoParams,
    CsftParams,
    DspoParams,
    GuardParams,
    KtoParams,
    MapoParams,
    ModuleGuidanceParams,
    NftParams,
    PairParams,
    QrpoParams,
    RwrParams,
    SftParams,
    TgoParams,
    ThresholdContrastParams,
)
from tgo_pipeline.params.parsing import parse
from tgo_pipeline.params.reward_gradient import AlignPropParams, DraftLvParams, DraftParams, ReflParams
from tgo_pipeline.plugins.folder import is_of_project
from tgo_pipeline.plugins.kinds import OBJECTIVE, POLICY

ALL_LEVELS = (0.0, 1.0)
"""`noise_levels` of the published methods."""
AUTO = "auto"
"""`noise_levels` that the training measures at its start."""
IMPORTANCE = "importance"
"""All levels, drawn as often as a measurement at the start says."""
MEASURED = (AUTO, IMPORTANCE)


@dataclass(frozen=True, kw_only=True)
class LoraParams:
    """The adapter of `method: lora`; no target modules means the attention projections of the model's family."""

    rank: int = 8
    alpha: float = 8.0
    target_modules: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        positive(rank=self.rank, alpha=self.alpha)


@dataclass(frozen=True, kw_only=True)
class ValidationParams:
    """Images drawn while training: every so many steps (0: never), for a few test prompts of every set."""

    every: int = 0
    prompts: int = 4

    def __post_init__(self) -> None:
        not_negative(every=self.every)
        positive(prompts=self.prompts)


@dataclass(frozen=True, kw_only=True)
class ReestimateParams:
    """Estimate tau again at the start of every epoch but the first, from images that the policy of that moment draws.

    `prompts` training prompts (chosen by hash) get `images_per_prompt` images each, drawn and scored as the
    training images were; the labels of the epoch are 1[s >= tau] with that tau.
    """

    prompts: int = 64
    images_per_prompt: int = 2

    def __post_init__(self) -> None:
        positive(prompts=self.prompts, images_per_prompt=self.images_per_prompt)


def objective_options(objective: Any, given: Mapping[str, Any], where: str = "fine_tune.options") -> Any:
    """The options of a class of one's own as its `Options`, a dataclass, checked as those of this package are."""
    kind = getattr(objective, "Options", None)
    if not isinstance(objective, type) or kind is None:
        raise TgoError(
            f"objective is {objective!r}: it must be a subclass of fine_tune.objectives.Objective."
        )
    if not dataclasses.is_dataclass(kind):
        raise TgoError(f"{objective.__name__}.Options must be a dataclass, whose fields are the options.")
    if given and not dataclasses.fields(kind):
        raise TgoError(f"{where} is given, but {objective.__name__} has none: leave it out.")
    return parse(cast(type, kind), given, f"{where}.")


def _check_levels(levels: list[float]) -> None:
    if len(levels) != 2 or not 0 <= levels[0] < levels[1] <= 1:
        raise TgoError(
            f"noise_levels is {levels}: it must be the lowest and the highest level to train on, from 0 (clean) to 1 "
            "(pure noise), such as [0.5, 1], or auto, or importance."
        )


@dataclass(frozen=True, kw_only=True)
class FineTuneParams:
    """The objective and its optimisation.

    `temperature` is the paper's T in log pi = -error/T, for masked models in log pi = L/T with L the mean or sum
    (`logp_reduction`) of the masked tokens' log-probabilities; `beta` multiplies the log-ratio to the reference.
    `loglik_space: x0` measures the error of the denoised prediction, its weight cut at `x0_weight_max`. `draws` are
    pairs of timestep and noise (or masks) averaged for each sample, from `noise_levels`: the lowest and the highest, 0
    clean and 1 pure noise, sigma / (alpha + sigma) or for masked models the masked share; `auto` measures them
    (`tgo levels`), `importance` draws all levels by the size of their gradients and weighs each loss. `positive_share`
    draws samples with replacement so that this share of them is positive. `safeguard` holds the gradient of a negative
    sample back where it undoes that of a positive one that is corrupted alike (Diffusion-SDPO's mu; 0 in its code).
    `embedded_guidance` is the guidance scale that a guidance-distilled model (FLUX.1 dev) is told. `held_out` are
    rewards that an objective with a reward's gradient logs and does not train on. `preset` names published values;
    keys given here win over it. `options` are those of an objective of your own, `policy` is a model family of your
    own, if the pipeline's class does not say which it is (docs/PLUGINS.md).
    """

    objective: str = "tgo"
    options: dict[str, Any] = field(default_factory=dict)
    policy: str | None = None
    preset: str = "none"
    beta: float = 1.0
    temperature: float = 0.001
    loglik_space: Literal["target", "x0"] = "target"
    x0_weight_max: float = 5.0
    logp_reduction: Literal["mean", "sum"] = "mean"
    timesteps: Literal["logit_normal", "uniform"] = "logit_normal"
    timestep_mode: Literal["inference_index", "train_script"] = "inference_index"
    embedded_guidance: float = 3.5
    noise_levels: Literal["auto", "importance"] | list[float] = field(
        default_factory=lambda: list(ALL_LEVELS)
    )
    draws: int = 1
    method: Literal["full", "lora"] = "full"
    lora: LoraParams = field(default_factory=LoraParams)
    steps: int = 78
    batch_size: int = 128
    optimizer: Literal["adamw", "adafactor"] = "adamw"
    learning_rate: float = 1e-5
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    ema: float | None = None
    caption_dropout: float = 0.0
    positive_share: float | None = None
    by_prompt: bool = False
    safeguard: float | None = None
    precision: Precision = "fp32"
    checkpoint_every: int = 50
    guard: GuardParams = field(default_factory=GuardParams)
    validation: ValidationParams = field(default_factory=ValidationParams)
    reestimate: ReestimateParams | None = None
    pairs: PairParams = field(default_factory=PairParams)
    guidance: ModuleGuidanceParams = field(default_factory=ModuleGuidanceParams)
    tgo: TgoParams = field(default_factory=TgoParams)
    sft: SftParams = field(default_factory=SftParams)
    csft: CsftParams = field(default_factory=CsftParams)
    kto: KtoParams = field(default_factory=KtoParams)
    dspo: DspoParams = field(default_factory=DspoParams)
    bco: BcoParams = field(default_factory=BcoParams)
    mapo: MapoParams = field(default_factory=MapoParams)
    rwr: RwrParams = field(default_factory=RwrParams)
    awr: AwrParams = field(default_factory=AwrParams)
    qrpo: QrpoParams = field(default_factory=QrpoParams)
    threshold_contrast: ThresholdContrastParams = field(default_factory=ThresholdContrastParams)
    nft: NftParams = field(default_factory=NftParams)
    align_prop: AlignPropParams = field(default_factory=AlignPropParams)
    draft: DraftParams = field(default_factory=DraftParams)
    draft_lv: DraftLvParams = field(default_factory=DraftLvParams)
    refl: ReflParams = field(default_factory=ReflParams)
    held_out: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._check_parts()
        positive(
            beta=self.beta,
            temperature=self.temperature,
            x0_weight_max=self.x0_weight_max,
            draws=self.draws,
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            max_grad_norm=self.max_grad_norm,
            adam_epsilon=self.adam_epsilon,
            checkpoint_every=self.checkpoint_every,
        )
        fraction(adam_beta1=self.adam_beta1, adam_beta2=self.adam_beta2)
        if self.safeguard is not None and not 0 <= self.safeguard <= 1:
            raise TgoError(f"safeguard is {self.safeguard}: it must be from 0 to 1.")
        if self.ema is not None:
            fraction(ema=self.ema)
        if self.positive_share is not None:
            fraction(positive_share=self.positive_share)
            if self.by_prompt:
                raise TgoError(
                    "positive_share and by_prompt are both given: each orders the samples in its own way."
                )
        _check_levels(self.levels)
        not_negative(warmup_steps=self.warmup_steps, weight_decay=self.weight_decay)
        if not 0 <= self.caption_dropout < 1:
            raise TgoError(f"caption_dropout is {self.caption_dropout}: it must be from 0 to below 1.")

    @property
    def levels(self) -> list[float]:
        """The noise levels to draw from: all with `importance`, and where `auto` has not been measured yet."""
        return list(ALL_LEVELS) if isinstance(self.noise_levels, str) else self.noise_levels

    def _check_parts(self) -> None:
        """What can be said of parts of one's own without running code of the project folder."""
        named(OBJECTIVE, objective=self.objective)
        if self.policy is not None:
            named(POLICY, policy=self.policy)
        if self.objective in OBJECTIVE.also or hasattr(self, self.objective):
            if self.options:
                raise TgoError(f"options is not for {self.objective}, whose options are under its own name.")
        elif not is_of_project(OBJECTIVE.reference(self.objective)):
            self._check_options("options")

    def _check_options(self, where: str = "fine_tune.options") -> None:
        if self.options or self.objective not in OBJECTIVE.builtin:
            objective_options(OBJECTIVE.find(self.objective), self.options, where)

    def load_parts(self) -> None:
        """Import objective and family of one's own, and check the options. Raises `TgoError` if one cannot be used."""
        if self.objective not in OBJECTIVE.also:
            self._check_options()
        if self.policy is not None:
            POLICY.find(self.policy)
