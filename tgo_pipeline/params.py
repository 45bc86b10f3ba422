"""`params.yaml` as frozen dataclasses: one per section, unknown keys and impossible values refused by name.

Every section but `runtime` changes numbers and is tracked by DVC; `runtime` says only how fast and where.
"""

from __future__ import annotations

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from tgo_pipeline.errors import TgoError

T = TypeVar("T")
TARGET_COMBINATIONS = ("mean_z", "mean_rank", "majority")


def _positive(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not value > 0:
            raise TgoError(f"{name} is {value}: it must be above 0.")


def _not_negative(**values: float) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise TgoError(f"{name} is {value}: it must be 0 or more.")


def _fraction(**values: float) -> None:
    for name, value in values.items():
        if 0 < value < 1:
            continue
        hint = f" For the {value:g}th percentile write {value / 100:g}." if 1 < value < 100 else ""
        raise TgoError(f"{name} is {value:g}: it must be a fraction strictly between 0 and 1.{hint}")


def _rewards(rewards: Mapping[str, str | None]) -> None:
    """Every entry names a reward; whether its files are there is seen when they are needed."""
    from tgo_pipeline.rewards.specs import resolve_all

    try:
        resolve_all(rewards)
    except TgoError as error:
        raise TgoError(f"rewards: {error}") from None


@dataclass(frozen=True, kw_only=True)
class PromptsParams:
    """Where prompts come from; a source is `demo:<family>` or a .txt, .csv, .jsonl or .parquet file."""

    train: str = "demo:train"
    test: dict[str, str] = field(default_factory=dict)
    column: str = "prompt"
    limit: int | None = None
    test_fraction: float = 0.0
    near_duplicate: float = 0.9

    def __post_init__(self) -> None:
        _positive(limit=self.limit)
        _fraction(near_duplicate=self.near_duplicate)
        if self.test_fraction:
            _fraction(test_fraction=self.test_fraction)
        if not self.test and not self.test_fraction:
            raise TgoError(
                "test and test_fraction are both empty: name at least one test source, or set test_fraction."
            )
        if "all" in self.test:
            raise TgoError("test has a set named 'all', which means all sets together: give it another name.")
        if self.test and self.test_fraction:
            raise TgoError("test and test_fraction are both given: keep one of them.")


@dataclass(frozen=True, kw_only=True)
class GenerateParams:
    """How images are sampled from the model, or which existing ones are taken (`source: images`)."""

    source: Literal["model", "images"] = "model"
    images: str | None = None
    image_column: str = "image"
    prompt_column: str = "prompt"
    images_per_prompt: int = 4
    guidance_scale: float = 7.5
    steps: int = 50
    width: int | None = None
    height: int | None = None
    shard_size: int = 256

    def __post_init__(self) -> None:
        _positive(
            images_per_prompt=self.images_per_prompt,
            steps=self.steps,
            shard_size=self.shard_size,
            width=self.width,
            height=self.height,
        )
        _not_negative(guidance_scale=self.guidance_scale)
        if (self.width is None) != (self.height is None):
            raise TgoError(f"width is {self.width} and height is {self.height}: give both, or none of them.")
        if self.source == "images" and not self.images:
            raise TgoError("images is empty although source is images: name a folder or a Parquet file.")


@dataclass(frozen=True, kw_only=True)
class ScoreParams:
    """Which rewards score every image, by column, and in which precision (auto: fp16 on a GPU, fp32 elsewhere).

    A column named like a reward has a source (null: the official checkpoint); another has a spec, `REWARD=SOURCE` or
    `module:function`.
    """

    rewards: dict[str, str | None] = field(default_factory=dict)
    max_error_rate: float = 0.01
    dtype: Literal["auto", "fp32", "fp16"] = "auto"

    def __post_init__(self) -> None:
        if not self.rewards:
            raise TgoError(
                "rewards is empty: name at least one reward and its source, such as `pickscore: demo`."
            )
        _rewards(self.rewards)
        if not 0 <= self.max_error_rate <= 1:
            raise TgoError(f"max_error_rate is {self.max_error_rate}: it must be from 0 to 1.")


@dataclass(frozen=True, kw_only=True)
class TargetParams:
    """The score that samples are split on: one reward, or a combination of several."""

    reward: str = "mean_z"
    rewards: list[str] = field(default_factory=list)


@dataclass(frozen=True, kw_only=True)
class ThresholdParams:
    """How tau is estimated from the scores."""

    percentile: float = 0.5
    source: Literal["dataset", "proxy"] = "dataset"
    proxy: str | None = None
    confidence: float = 0.95
    bootstrap: int = 1000

    def __post_init__(self) -> None:
        _fraction(percentile=self.percentile, confidence=self.confidence)
        _positive(bootstrap=self.bootstrap)
        if self.source == "proxy" and not self.proxy:
            raise TgoError("proxy is empty although source is proxy: name a folder of score shards.")


@dataclass(frozen=True, kw_only=True)
class LabelParams:
    """The tie rule at tau and the confidence weight w = 1 + c|s - tau|."""

    ties: Literal["positive", "negative"] = "positive"
    c: float = 5.0
    scale: Literal["raw", "std", "mad", "rank"] = "std"

    def __post_init__(self) -> None:
        _not_negative(c=self.c)


@dataclass(frozen=True, kw_only=True)
class LoraParams:
    """The adapter of `method: lora`; no target modules means the attention projections."""

    rank: int = 8
    alpha: float = 8.0
    target_modules: list[str] = field(default_factory=lambda: ["to_q", "to_k", "to_v", "to_out.0"])

    def __post_init__(self) -> None:
        _positive(rank=self.rank, alpha=self.alpha)


@dataclass(frozen=True, kw_only=True)
class ValidationParams:
    """Images drawn while training: every so many steps (0: never), for a few test prompts of every set."""

    every: int = 0
    prompts: int = 4

    def __post_init__(self) -> None:
        _not_negative(every=self.every)
        _positive(prompts=self.prompts)


@dataclass(frozen=True, kw_only=True)
class FineTuneParams:
    """The objective and its optimisation; `temperature` is the paper's T in log pi = -MSE/T."""

    objective: Literal["tgo", "sft"] = "tgo"
    beta: float = 1.0
    temperature: float = 0.001
    method: Literal["full", "lora"] = "full"
    lora: LoraParams = field(default_factory=LoraParams)
    steps: int = 78
    batch_size: int = 128
    learning_rate: float = 1e-5
    warmup_steps: int = 0
    schedule: Literal["constant", "cosine", "linear"] = "constant"
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    caption_dropout: float = 0.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    checkpoint_every: int = 50
    validation: ValidationParams = field(default_factory=ValidationParams)

    def __post_init__(self) -> None:
        _positive(
            beta=self.beta,
            temperature=self.temperature,
            steps=self.steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            max_grad_norm=self.max_grad_norm,
            adam_epsilon=self.adam_epsilon,
            checkpoint_every=self.checkpoint_every,
        )
        _fraction(adam_beta1=self.adam_beta1, adam_beta2=self.adam_beta2)
        _not_negative(warmup_steps=self.warmup_steps, weight_decay=self.weight_decay)
        if not 0 <= self.caption_dropout < 1:
            raise TgoError(f"caption_dropout is {self.caption_dropout}: it must be from 0 to below 1.")


@dataclass(frozen=True, kw_only=True)
class EvaluateParams:
    """Base and tuned model on the test prompts, with the guidance and steps of `generate`."""

    images_per_prompt: int = 1
    rewards: dict[str, str | None] = field(default_factory=dict)
    confidence: float = 0.95
    bootstrap: int = 2000

    def __post_init__(self) -> None:
        _rewards(self.rewards)
        _positive(images_per_prompt=self.images_per_prompt, bootstrap=self.bootstrap)
        _fraction(confidence=self.confidence)


@dataclass(frozen=True, kw_only=True)
class ReportParams:
    """What the report shows."""

    title: str = "Threshold-Guided Optimization"
    examples: int = 8
    pairs: int = 12

    def __post_init__(self) -> None:
        _positive(examples=self.examples, pairs=self.pairs)


@dataclass(frozen=True, kw_only=True)
class RuntimeParams:
    """How fast and where, never what: nothing here is tracked, none of it enters a fingerprint.

    `workers` are processes that decode images for scoring (none given: on a GPU one per core, on a CPU threads);
    `score_memory_gb` is what reward weights may take (none given: most of what is free), `compile` is torch.compile.
    """

    device: str = "auto"
    processes: int = 1
    threads: int | None = None
    generate_batch_size: int = 64
    score_batch_size: int | None = None
    score_memory_gb: float | None = None
    workers: int | None = None
    compile: bool = False
    micro_batch_size: int | None = None
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        _not_negative(workers=self.workers or 0)
        _positive(
            processes=self.processes,
            threads=self.threads,
            generate_batch_size=self.generate_batch_size,
            score_batch_size=self.score_batch_size,
            score_memory_gb=self.score_memory_gb,
            micro_batch_size=self.micro_batch_size,
        )


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
        scored = list(self.score.rewards)
        if self.target.reward not in (*scored, *TARGET_COMBINATIONS):
            allowed = ", ".join((*scored, *TARGET_COMBINATIONS))
            raise TgoError(f"target.reward is {self.target.reward!r}: it must be one of {allowed}.")
        if self.target.rewards and self.target.reward in scored:
            raise TgoError(
                f"target.rewards is given, but target.reward is {self.target.reward!r}, which combines nothing: "
                f"empty it, or choose {', '.join(TARGET_COMBINATIONS)}."
            )
        if self.revision is not None and self.model == "demo":
            raise TgoError("revision is given, but the demo has none: it pins a hub id.")
        for name in self.target.rewards:
            if name not in scored:
                raise TgoError(
                    f"target.rewards names {name!r}, which score.rewards lacks: {', '.join(scored)}."
                )

    @property
    def target_rewards(self) -> list[str]:
        """The rewards that the target is made of: itself, or those that a combination combines."""
        if self.target.reward in TARGET_COMBINATIONS:
            return self.target.rewards or list(self.score.rewards)
        return [self.target.reward]


def load_params(path: Path | str = "params.yaml") -> Params:
    """Read and check a parameter file. Raises `TgoError` naming the file and the offending key."""
    import yaml

    path = Path(path)
    if not path.is_file():
        raise TgoError(f"{path} does not exist: run from the project's root, or name a parameter file.")
    try:
        raw = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise TgoError(f"{path} is not YAML: {error}") from error
    if not isinstance(raw, Mapping):
        raise TgoError(f"{path} holds {type(raw).__name__}, not a mapping of sections to keys.")
    try:
        return parse(Params, raw)
    except TgoError as error:
        raise TgoError(f"{path}: {error}") from None


def parse(kind: type[T], raw: Mapping[str, Any], where: str = "") -> T:
    """Build dataclass `kind` from a mapping, strictly: no unknown key, no missing key, no value of another type."""
    hints = typing.get_type_hints(kind)
    fields = {f.name: f for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    for key in raw:
        if key not in fields:
            raise TgoError(_unknown_key(f"{where}{key}", str(key), list(fields)))
    values = {key: _convert(hints[key], value, f"{where}{key}") for key, value in raw.items()}
    for name, spec in fields.items():
        required = spec.default is dataclasses.MISSING and spec.default_factory is dataclasses.MISSING
        if required and name not in values:
            raise TgoError(f"{where}{name} is missing.")
    try:
        return kind(**values)
    except TgoError as error:
        raise TgoError(f"{where}{error}") from None


def _unknown_key(full: str, key: str, allowed: list[str]) -> str:
    close = difflib.get_close_matches(key, allowed, n=1)
    hint = f" Did you mean {close[0]}?" if close else ""
    return f"{full} is not a known key.{hint} Allowed here: {', '.join(allowed)}."


def _convert(hint: Any, value: Any, where: str) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None:
            return None
        return _convert(next(a for a in args if a is not type(None)), value, where)
    if origin is Literal:
        if value not in args:
            raise TgoError(f"{where} is {value!r}: it must be one of {', '.join(map(str, args))}.")
        return value
    if origin is list:
        _expect(isinstance(value, list), where, value, "a list")
        return [_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        _expect(isinstance(value, Mapping), where, value, "a mapping")
        return {str(key): _convert(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        _expect(isinstance(value, Mapping), where, value, "a mapping of keys")
        return parse(typing.cast(type, hint), value, f"{where}.")
    return _scalar(hint, value, where)


def _scalar(hint: type, value: Any, where: str) -> Any:
    if hint is float:
        if isinstance(value, str):  # YAML 1.1 reads 1e-5 as text
            try:
                value = float(value)
            except ValueError:
                pass
        _expect(isinstance(value, (int, float)) and not isinstance(value, bool), where, value, "a number")
        _expect(math.isfinite(float(value)), where, value, "a finite number")
        return float(value)
    names = {int: "a whole number", bool: "true or false", str: "text"}
    right = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    _expect(right, where, value, names[hint])
    return value


def _expect(condition: bool, where: str, value: Any, what: str) -> None:
    if not condition:
        raise TgoError(f"{where} is {value!r}: it must be {what}.")
