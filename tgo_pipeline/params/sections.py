"""The sections of `params.yaml` as frozen dataclasses, but `fine_tune`; impossible values are refused by name."""

from __future__ import annotations

import unicodedata
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.limits import MEGAPIXELS, MEMORY_GB
from tgo_pipeline.formats.object_stores import WRITABLE, require_address
from tgo_pipeline.params.checks import Precision, fraction, named, not_negative, positive
from tgo_pipeline.params.feedback import FeedbackParams
from tgo_pipeline.plugins.kinds import EXECUTOR

TARGET_COMBINATIONS = ("mean_z", "mean_rank", "majority")
FramePart = Literal["min", "last"]
RESERVED = ("sample_id", "prompt_id", "error", *TARGET_COMBINATIONS)
"""Names that no score column may have."""


def _rewards(rewards: Mapping[str, str | None]) -> None:
    """Every entry names a reward; whether its files are there is seen when they are needed."""
    from tgo_pipeline.rewards.specs import columns, resolve_all

    try:
        columns(resolve_all(rewards))
    except TgoError as error:
        raise TgoError(f"rewards: {error}") from None


@dataclass(frozen=True, kw_only=True)
class PromptsParams:
    """Where prompts come from: `demo:<family>`, a .txt, .csv, .jsonl or .parquet file, or a public data set."""

    train: str = "demo:train"
    test: dict[str, str] = field(default_factory=dict)
    column: str = "prompt"
    limit: int | None = None
    test_fraction: float = 0.0
    near_duplicate: float = 0.9

    def __post_init__(self) -> None:
        positive(limit=self.limit)
        fraction(near_duplicate=self.near_duplicate)
        if self.test_fraction:
            fraction(test_fraction=self.test_fraction)
        if not self.test and not self.test_fraction:
            raise TgoError(
                "test and test_fraction are both empty: name at least one test source, or set test_fraction."
            )
        if "all" in self.test:
            raise TgoError("test has a set named 'all', which means all sets together: give it another name.")
        _check_names(self.test)
        if self.test and self.test_fraction:
            raise TgoError("test and test_fraction are both given: keep one of them.")


@dataclass(frozen=True, kw_only=True)
class GuidanceParams:
    """Preference as guidance: modules (models or adapters) that push every sampling step, and how strongly.

    `pgd` goes from the base towards `positive`, `cpgd` along the difference from `negative` to `positive`.
    """

    kind: Literal["pgd", "cpgd"] = "cpgd"
    positive: str
    negative: str | None = None
    strength: float = 1.0

    def __post_init__(self) -> None:
        not_negative(strength=self.strength)
        if (self.negative is None) != (self.kind == "pgd"):
            rule = "pgd has no negative module" if self.kind == "pgd" else "cpgd needs a negative module"
            raise TgoError(f"kind is {self.kind} and negative is {self.negative!r}: {rule}.")


def _check_names(sets: Collection[str]) -> None:
    """Raise `TgoError` for names of test sets that nobody can tell apart in a table."""
    seen: dict[str, str] = {}
    for name in sets:
        looks = " ".join(unicodedata.normalize("NFC", name).split())
        if not looks or not looks.isprintable():
            raise TgoError(f"test has a set named {name!r}: give it a name that can be read.")
        if looks in seen:
            raise TgoError(f"test has sets named {seen[looks]!r} and {name!r}, which look alike: rename one.")
        seen[looks] = name


@dataclass(frozen=True, kw_only=True)
class GenerateParams:
    """How images are sampled from the model, or which existing ones are taken (`source: images`).

    `images` is an address as in docs/DATASETS.md; `limit` takes that many of them at most. `precision` is that
    of all networks while they sample, in the evaluation too: half precision takes half the memory, and on a GPU far
    less time. `frames` and `fps` are for models that draw clips, by default the model's own.
    """

    source: Literal["model", "images"] = "model"
    images: str | None = None
    limit: int | None = None
    image_column: str = "image"
    prompt_column: str = "prompt"
    images_per_prompt: int = 4
    guidance_scale: float = 7.5
    steps: int = 50
    precision: Precision = "fp32"
    width: int | None = None
    height: int | None = None
    frames: int | None = None
    fps: float | None = None
    shard_size: int = 256
    guidance: GuidanceParams | None = None

    def __post_init__(self) -> None:
        positive(
            images_per_prompt=self.images_per_prompt,
            steps=self.steps,
            shard_size=self.shard_size,
            width=self.width,
            height=self.height,
            frames=self.frames,
            fps=self.fps,
            limit=self.limit,
        )
        not_negative(guidance_scale=self.guidance_scale)
        if (self.width is None) != (self.height is None):
            raise TgoError(f"width is {self.width} and height is {self.height}: give both, or none of them.")
        if self.source == "images" and not self.images:
            raise TgoError(
                "images is empty although source is images: name a folder, a pattern, a table or a data set."
            )
        if self.source == "images" and self.guidance is not None:
            raise TgoError("guidance is given although source is images: images that exist are not sampled.")


@dataclass(frozen=True, kw_only=True)
class ScoreParams:
    """Which rewards score every image, by column, and in which precision (auto: fp16 on a GPU, fp32 elsewhere).

    A column named like a reward has a source (null: the official checkpoint); another has a spec, `REWARD=SOURCE` or
    `module:function`. `feedback` adds columns of scores that people gave, or that come from elsewhere. Of clips,
    rewards of images score `frames` frames: their mean, and the `frame_parts` as `REWARD.min` (the lowest) and
    `REWARD.last`.
    """

    rewards: dict[str, str | None] = field(default_factory=dict)
    feedback: dict[str, FeedbackParams] = field(default_factory=dict)
    max_error_rate: float = 0.01
    dtype: Literal["auto", "fp32", "fp16"] = "auto"
    frames: int = 8
    frame_parts: list[FramePart] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """The score columns in their order: the rewards, each with its parts behind it, then the feedback."""
        from tgo_pipeline.rewards.specs import columns, resolve_all

        return [*columns(resolve_all(self.rewards), self.frame_parts), *self.feedback]

    def __post_init__(self) -> None:
        if not self.rewards and not self.feedback:
            raise TgoError(
                "rewards is empty: name at least one reward and its source, such as `pickscore: demo`, or a column of "
                "feedback."
            )
        positive(frames=self.frames)
        _rewards(self.rewards)
        for name in self.feedback:
            if name in self.columns[: -len(self.feedback)] or name in RESERVED:
                raise TgoError(
                    f"feedback.{name}: the scores have a column of this name already; take another."
                )
        if not 0 <= self.max_error_rate <= 1:
            raise TgoError(f"max_error_rate is {self.max_error_rate}: it must be from 0 to 1.")


@dataclass(frozen=True, kw_only=True)
class TargetParams:
    """The score that samples are split on: one reward, or a combination of several; a reward's part is named
    `NAME.part`.
    """

    reward: str = "mean_z"
    rewards: list[str] = field(default_factory=list)


_BETA = {
    "prompt_soft": "the target score (its standard deviation is a start)",
    "prompt_quantile": "quantiles, which go from 0 to 1 (0.3 splits them at 0.63, 1 at 0.54)",
}


@dataclass(frozen=True, kw_only=True)
class ThresholdParams:
    """How tau is estimated from the scores, and what each sample is compared with.

    `baseline: global` is the method's own: one tau, the percentile of all scores. The others compare a sample with
    its own prompt (`prompt_mean`, `prompt_median`, `prompt_soft` = beta log mean exp(s / beta), `prompt_quantile` =
    the sample's quantile in its prompt against QRPO's tau_q(beta)) or with the percentile of its `group`. `beta` is in
    units of what it divides, the target score or (`prompt_quantile`) quantiles from 0 to 1, and not the loss's: it is
    never guessed. `leave_one_out` estimates a sample's baseline from the others of its prompt, `jackknife` removes the
    first-order bias of `prompt_soft`. `tolerance` is the share of labels that the prompts' own thresholds may flip
    before the adequacy report calls one tau inadequate.
    """

    percentile: float = 0.5
    baseline: Literal["global", "prompt_mean", "prompt_median", "prompt_soft", "prompt_quantile", "group"] = (
        "global"
    )
    group: Literal["source", "category", "model"] | None = None
    beta: float | None = None
    leave_one_out: bool = False
    jackknife: bool = False
    source: Literal["dataset", "proxy"] = "dataset"
    proxy: str | None = None
    tolerance: float = 0.1
    confidence: float = 0.95
    bootstrap: int = 1000

    def __post_init__(self) -> None:
        fraction(percentile=self.percentile, confidence=self.confidence, tolerance=self.tolerance)
        positive(bootstrap=self.bootstrap, beta=self.beta)
        if self.baseline in ("prompt_soft", "prompt_quantile") and self.beta is None:
            raise TgoError(
                f"baseline is {self.baseline} and beta is not given: it needs beta in units of {_BETA[self.baseline]}; "
                "`tgo thresholds --explain` shows what follows from it."
            )
        if (self.baseline == "group") != (self.group is not None):
            raise TgoError(
                f"baseline is {self.baseline} and group is {self.group!r}: give group (source, category or model) with "
                "baseline: group, and only then."
            )
        if self.jackknife and self.baseline != "prompt_soft":
            raise TgoError(
                f"jackknife is on, but baseline is {self.baseline}: it corrects prompt_soft alone."
            )
        if self.leave_one_out and self.baseline not in ("prompt_mean", "prompt_median", "prompt_soft"):
            raise TgoError(
                f"leave_one_out is on, but baseline is {self.baseline}: it is for prompt_mean, prompt_median and "
                "prompt_soft."
            )
        if self.source == "proxy" and (self.leave_one_out or self.group == "model"):
            given = "leave_one_out is on" if self.leave_one_out else "group is model"
            raise TgoError(
                f"{given}, but source is proxy: a proxy set holds none of the samples that are labelled, and is not "
                "distinguished by model. Use source: dataset."
            )
        if self.source == "proxy" and not self.proxy:
            raise TgoError("proxy is empty although source is proxy: name a folder of score shards.")


@dataclass(frozen=True, kw_only=True)
class LabelParams:
    """The tie rule at tau and the confidence weight w = 1 + c|s - tau|."""

    ties: Literal["positive", "negative"] = "positive"
    c: float = 5.0
    scale: Literal["raw", "std", "mad", "rank"] = "std"

    def __post_init__(self) -> None:
        not_negative(c=self.c)


@dataclass(frozen=True, kw_only=True)
class EvaluateParams:
    """Base and tuned model, and any `models` besides (name: folder, or hub id with @revision), on the test prompts.

    All draw the same prompts with the same seeds, guidance and steps. `aggregate` compares models image by image
    (`single`), or by the median, mean or best score of a prompt's images. `correction` is for p-values of many
    comparisons (Holm, Benjamini-Hochberg). `published` shows reported numbers next to them, marked as such.
    """

    images_per_prompt: int = 1
    aggregate: Literal["single", "median", "mean", "best"] = "single"
    models: dict[str, str] = field(default_factory=dict)
    rewards: dict[str, str | None] = field(default_factory=dict)
    correction: Literal["holm", "bh", "none"] = "holm"
    published: bool = False
    confidence: float = 0.95
    bootstrap: int = 2000

    def __post_init__(self) -> None:
        _rewards(self.rewards)
        positive(images_per_prompt=self.images_per_prompt, bootstrap=self.bootstrap)
        fraction(confidence=self.confidence)
        for name in ("base", "tuned"):
            if name in self.models:
                raise TgoError(
                    f"models has one named {name!r}, which is the {name} model of this run: rename it."
                )


@dataclass(frozen=True, kw_only=True)
class ReportParams:
    """What the report shows; its images stay within `max_mb` megabytes, `gallery` samples at most.

    `thumbnail` is the longer side of the gallery's images in pixels, by default as many as `max_mb` allows.
    """

    title: str = "Threshold-Guided Optimization"
    examples: int = 8
    pairs: int = 12
    gallery: int = 2000
    thumbnail: int | None = None
    max_mb: float = 25.0

    def __post_init__(self) -> None:
        positive(
            examples=self.examples,
            pairs=self.pairs,
            thumbnail=self.thumbnail,
            max_mb=self.max_mb,
        )
        not_negative(gallery=self.gallery)


@dataclass(frozen=True, kw_only=True)
class RuntimeParams:
    """How fast and where, never what: nothing here is tracked, none of it enters a fingerprint.

    `processes` sample, score and train, on GPUs with one each when they train. How many train changes the last digits
    of a result; nothing else here does more than that either. `generate_batch_size` images are drawn or encoded at a
    time and `micro_batch_size` samples trained on (by default a whole batch); both halve where memory runs out.
    `workers` are processes that decode images for scoring (by default one per core on a GPU, threads on a CPU);
    `score_memory_gb` is what reward weights may take (by default most of what is free), `compile` is torch.compile, of
    the networks that draw, score and train.
    An image of more than `max_image_megapixels` million pixels is not read, and those that are decoded at a time take
    at most about `image_memory_gb`, all processes together. `trackers` follow a training in addition to dvclive, which
    always does. `executor` runs shards: `local`, on this machine, `ranks`, on all that run the same command in one
    folder, `ray`, on a Ray cluster (docs/SCALE.md), or one of your own (docs/PLUGINS.md). `data` is a folder of an
    object store in which shards lie (`s3://bucket/project`); by default they lie in the project.
    """

    device: str = "auto"
    data: str | None = None
    executor: str = "local"
    processes: int = 1
    threads: int | None = None
    generate_batch_size: int = 64
    score_batch_size: int | None = None
    score_memory_gb: float | None = None
    workers: int | None = None
    max_image_megapixels: float = MEGAPIXELS
    image_memory_gb: float = MEMORY_GB
    compile: bool = False
    micro_batch_size: int | None = None
    gradient_checkpointing: bool = False
    trackers: list[Literal["tensorboard", "wandb"]] = field(default_factory=list)

    def __post_init__(self) -> None:
        named(EXECUTOR, executor=self.executor)
        if self.data is not None:
            require_address(self.data, WRITABLE)
        not_negative(workers=self.workers or 0)
        positive(
            processes=self.processes,
            threads=self.threads,
            generate_batch_size=self.generate_batch_size,
            score_batch_size=self.score_batch_size,
            score_memory_gb=self.score_memory_gb,
            micro_batch_size=self.micro_batch_size,
            max_image_megapixels=self.max_image_megapixels,
            image_memory_gb=self.image_memory_gb,
        )
