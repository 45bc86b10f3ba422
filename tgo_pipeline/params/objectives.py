"""The options of each objective: sections of `fine_tune`, of which a training reads those of its objective alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params.checks import not_negative, positive

ReferencePointName = Literal["none", "running_mean", "kl_clamped"]


@dataclass(frozen=True, kw_only=True)
class TgoParams:
    """Threshold-Guided Optimization; the defaults are the paper's, the rest are variants of it.

    `labels: quantile` labels a sample by its rank q among its prompt's samples against QRPO's threshold at
    `quantile_beta`, instead of by the global tau, with weights 1 + quantile_c |q - threshold|. `soft_labels` is the
    width, in standard deviations of the score, over which a label goes from 0 to 1.
    """

    normalise_weights: bool = False
    damping: float = 1.0
    reward_shift: ReferencePointName = "none"
    soft_labels: float | None = None
    labels: Literal["threshold", "quantile"] = "threshold"
    quantile_beta: float = 1.0
    quantile_c: float = 5.0

    def __post_init__(self) -> None:
        not_negative(damping=self.damping, quantile_c=self.quantile_c)
        positive(soft_labels=self.soft_labels, quantile_beta=self.quantile_beta)


@dataclass(frozen=True, kw_only=True)
class SftParams:
    """Supervised fine-tuning on one side of the threshold."""

    side: Literal["positive", "negative"] = "positive"


@dataclass(frozen=True, kw_only=True)
class CsftParams:
    """Conditional fine-tuning: both sides, distinguished by a prefix of the prompt."""

    positive_prefix: str = "good image "
    negative_prefix: str = "bad image "

    def __post_init__(self) -> None:
        if self.positive_prefix == self.negative_prefix:
            raise TgoError("positive_prefix equals negative_prefix: nothing would tell the sides apart.")


@dataclass(frozen=True, kw_only=True)
class KtoParams:
    """Diffusion-KTO: the utility of the shifted log-ratio, and the point that it is shifted by.

    `reference_point`: `code` is the mean of the batch, clamped at 0; `paper` that of images under another prompt of
    the batch, clamped; `roll` the same, not clamped; `none` is 0.
    """

    utility: Literal["sigmoid", "loss_averse", "risk_seeking"] = "sigmoid"
    reference_point: Literal["code", "paper", "roll", "none"] = "code"
    desirable: float = 1.0
    undesirable: float = 1.0

    def __post_init__(self) -> None:
        not_negative(desirable=self.desirable, undesirable=self.undesirable)


@dataclass(frozen=True, kw_only=True)
class DspoParams:
    """Direct score preference optimisation; the two published codes differ."""

    variant: Literal["sd15", "sdxl"] = "sd15"
    strength: float = 0.001

    def __post_init__(self) -> None:
        positive(strength=self.strength)


@dataclass(frozen=True, kw_only=True)
class BcoParams:
    """Binary classifier optimisation: the shift of the implicit reward."""

    reward_shift: ReferencePointName = "running_mean"


@dataclass(frozen=True, kw_only=True)
class MapoParams:
    """Margin-aware preference optimisation, without a reference."""

    scale: float = 0.5
    margin_weight: float = 0.1
    margin_beta: float = 1000.0

    def __post_init__(self) -> None:
        positive(scale=self.scale, margin_weight=self.margin_weight, margin_beta=self.margin_beta)


@dataclass(frozen=True, kw_only=True)
class RwrParams:
    """Reward-weighted regression; `temperature` is in standard deviations of the score."""

    temperature: float = 1.0
    normalise: Literal["softmax", "max"] = "softmax"

    def __post_init__(self) -> None:
        positive(temperature=self.temperature)


@dataclass(frozen=True, kw_only=True)
class AwrParams:
    """Advantage-weighted regression; `temperature` is in standard deviations of the score."""

    temperature: float = 1.0
    max_weight: float = 20.0

    def __post_init__(self) -> None:
        positive(temperature=self.temperature, max_weight=self.max_weight)


@dataclass(frozen=True, kw_only=True)
class QrpoParams:
    """Quantile-reward policy optimisation; `beta` is in units of the quantile reward, from 0 to 1."""

    beta: float = 0.1

    def __post_init__(self) -> None:
        positive(beta=self.beta)


@dataclass(frozen=True, kw_only=True)
class ThresholdContrastParams:
    """Contrast across the threshold: how many negatives a positive sample has, and how often a sample comes up.

    `deal`: in proportion to its distance to tau, or all of a side equally often.
    """

    negatives: int = 1
    deal: Literal["distance", "uniform"] = "distance"

    def __post_init__(self) -> None:
        positive(negatives=self.negatives)


@dataclass(frozen=True, kw_only=True)
class NftParams:
    """DiffusionNFT: what a sample's optimality is made of, how far the policies are mirrored, the tie in predictions.

    `optimality`: `score` is the distance to tau, `prompt` that to the mean of its prompt (published), in standard
    deviations; `label` is the label.
    """

    optimality: Literal["score", "prompt", "label"] = "score"
    beta: float = 1.0
    kl: float = 1e-4

    def __post_init__(self) -> None:
        positive(beta=self.beta)
        not_negative(kl=self.kl)


@dataclass(frozen=True, kw_only=True)
class PairParams:
    """How pairs of one prompt are taken from the scores; `margin` is in units of the score."""

    select: Literal["best_worst", "all"] = "best_worst"
    margin: float = 0.0

    def __post_init__(self) -> None:
        not_negative(margin=self.margin)


@dataclass(frozen=True, kw_only=True)
class ModuleGuidanceParams:
    """What `pgd` and `cpgd` make of their modules: guidance of a strength, or one merged model.

    `module` is the objective that trains the module of `pgd` (published: dpo); those of `cpgd` are SFT on either side.
    """

    strength: float = 1.0
    merge: bool = False
    module: Literal["dpo", "tgo", "kto", "bco", "sft", "threshold_contrast"] = "dpo"

    def __post_init__(self) -> None:
        not_negative(strength=self.strength)


@dataclass(frozen=True, kw_only=True)
class GuardParams:
    """When training stops before it ruins the model.

    `negative_error`: the policy's error on negative samples may be this many times the reference's (null: any), as a
    mean over `patience` updates in a row. `both_errors` is the limit in its place for `threshold_contrast`, of the
    errors on both sides together: its loss binds their difference, and both may rise.
    """

    negative_error: float | None = 1.5
    both_errors: float | None = 5.0
    patience: int = 5

    def __post_init__(self) -> None:
        positive(patience=self.patience)
        for name in ("negative_error", "both_errors"):
            limit = getattr(self, name)
            if limit is not None and not limit > 1:
                raise TgoError(f"{name} is {limit:g}: it is a ratio to the reference's error, so above 1.")
