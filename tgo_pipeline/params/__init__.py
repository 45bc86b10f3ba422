"""`params.yaml` as frozen dataclasses: one per section, unknown keys and impossible values refused by name.

Every section but `runtime` changes numbers and is tracked by DVC; `runtime` says only how fast and where.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats import yaml_text
from tgo_pipeline.formats.files import read_text
from tgo_pipeline.formats.limits import IMAGES
from tgo_pipeline.params import presets, reward_gradient
from tgo_pipeline.params.feedback import FeedbackParams
from tgo_pipeline.params.fine_tune import FineTuneParams, LoraParams
from tgo_pipeline.params.objectives import GuardParams
from tgo_pipeline.params.overrides import override
from tgo_pipeline.params.parsing import parse
from tgo_pipeline.params.sections import (
    RESERVED,
    TARGET_COMBINATIONS,
    EvaluateParams,
    GenerateParams,
    GuidanceParams,
    LabelParams,
    PromptsParams,
    ReportParams,
    RuntimeParams,
    ScoreParams,
    TargetParams,
    ThresholdParams,
)

if TYPE_CHECKING:
    from tgo_pipeline.rewards.specs import Spec
    from tgo_pipeline.rewards.toys import ShownNames

__all__ = [
    "RESERVED",
    "TARGET_COMBINATIONS",
    "EvaluateParams",
    "FeedbackParams",
    "FineTuneParams",
    "GenerateParams",
    "GuardParams",
    "GuidanceParams",
    "LabelParams",
    "LoraParams",
    "Params",
    "PromptsParams",
    "ReportParams",
    "RuntimeParams",
    "ScoreParams",
    "TargetParams",
    "ThresholdParams",
    "load_params",
    "parse",
]
EMBEDDED = ("demo", "demo-masked", "demo-video")
"""Models that ship with the package."""
LONGEST = 2000
"""Characters of an error."""


@dataclass(frozen=True, kw_only=True)
class Params:
    """The whole of `params.yaml`. `model` is `demo`, a local folder or a hub id; `revision` pins a hub id."""

    seed: int = 0
    model: str = "demo"
    revision: str | None = None
    prompts: PromptsParams
    generate: GenerateParams = field(default_factory=GenerateParams)
    score: ScoreParams
    target: TargetParams = field(default_factory=TargetParams)
    threshold: ThresholdParams = field(default_factory=ThresholdParams)
    label: LabelParams = field(default_factory=LabelParams)
    fine_tune: FineTuneParams = field(default_factory=FineTuneParams)
    evaluate: EvaluateParams = field(default_factory=EvaluateParams)
    report: ReportParams = field(default_factory=ReportParams)
    runtime: RuntimeParams = field(default_factory=RuntimeParams)

    def __post_init__(self) -> None:
        scored = self.score.columns
        if self.target.reward not in (*scored, *TARGET_COMBINATIONS):
            allowed = ", ".join((*scored, *TARGET_COMBINATIONS))
            raise TgoError(f"target.reward is {self.target.reward!r}: it must be one of {allowed}.")
        if self.target.rewards and self.target.reward in scored:
            raise TgoError(
                f"target.rewards is given, but target.reward is {self.target.reward!r}, which combines nothing: "
                f"empty it, or choose {', '.join(TARGET_COMBINATIONS)}."
            )
        if self.revision is not None and self.model in EMBEDDED:
            raise TgoError(f"revision is given, but {self.model} has none: it pins a hub id.")
        for name in self.target.rewards:
            if name not in scored:
                raise TgoError(f"target.rewards names {name!r}, which the scores lack: {', '.join(scored)}.")
        reward_gradient.check(self)

    @property
    def target_rewards(self) -> list[str]:
        """The columns that the target is made of: itself, or those that a combination combines, by default every
        reward's first.
        """
        if self.target.reward in TARGET_COMBINATIONS:
            return self.target.rewards or [*self.score.rewards, *self.score.feedback]
        return [self.target.reward]

    @property
    def target_specs(self) -> dict[str, Spec]:
        """Which reward fills each column of a target without feedback."""
        from tgo_pipeline.rewards.specs import columns, resolve_all

        filled = columns(resolve_all(self.score.rewards), self.score.frame_parts)
        return {name: filled[name] for name in self.target_rewards}

    @property
    def reward_columns(self) -> dict[str, Spec]:
        """Which reward fills each column of `score` and of `evaluate`."""
        from tgo_pipeline.rewards.specs import columns, resolve_all

        return columns(resolve_all({**self.score.rewards, **self.evaluate.rewards}), self.score.frame_parts)

    @property
    def shown_names(self) -> ShownNames:
        """What people read of the columns of scores, the target among them."""
        from tgo_pipeline.rewards.toys import ShownNames

        sources = {name: spec.source for name, spec in self.reward_columns.items()}
        return ShownNames.of(sources, {self.target.reward: self.target_rewards})

    @property
    def target_is_scored_anywhere(self) -> bool:
        """Whether new images have a target score: feedback exists for the images it was given to alone."""
        return not set(self.target_rewards) & set(self.score.feedback)


def load_params(path: Path | str = "params.yaml", overrides: Sequence[str] = ()) -> Params:
    """Read and check a parameter file, with `overrides` such as `label.c=1` in place of what it says.

    Raises `TgoError` naming the file and the offending key.
    """
    path = Path(path)
    if not path.exists():
        raise TgoError(f"{path} does not exist: run from the project's root, or name a parameter file.")
    try:
        raw = yaml_text.loads(read_text(path))
        if not isinstance(raw, Mapping):
            raise TgoError(f"it holds {type(raw).__name__}, not a mapping of sections to keys.")
        params = parse(Params, presets.apply(override(Params, raw, overrides)))
    except OSError as error:
        raise TgoError(f"{path} cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        raise TgoError(f"{path} is not text in UTF-8 ({error}): save it as UTF-8.") from error
    except TgoError as error:
        raise TgoError(f"{path}: {_shortened(str(error))}") from None
    # every decoder of the process keeps to them, and fingerprints tell whether they are as usual
    IMAGES.set(params.runtime.max_image_megapixels, params.runtime.image_memory_gb)
    return params


def _shortened(message: str) -> str:
    """A message without the middle of a value that goes on for pages."""
    return message if len(message) <= LONGEST else f"{message[: LONGEST // 2]} … {message[-LONGEST // 2 :]}"
