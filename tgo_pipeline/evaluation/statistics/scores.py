"""The scores of all models on the same samples, and of two of them as pairs."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.tables import with_features

if TYPE_CHECKING:
    import polars as pl

ALL = "all"  # every test set together
Aggregate = Literal["single", "median", "mean", "best"]
_REDUCE = {"median": np.median, "mean": np.mean, "best": np.max}
SAMPLES = with_features(
    pa.schema(
        [
            pa.field(name, pa.string(), nullable=False)
            for name in ("sample_id", "prompt_id", "prompt", "test_set", "reward")
        ]
        + [pa.field(name, pa.float64(), nullable=False) for name in ("base", "tuned")]
    )
)


@dataclass(frozen=True)
class ModelScores:
    """Scores of M models on N samples by R rewards; NaN where a sample could not be scored.

    A sample is an image (equal prompt and seed for every model), or a prompt once its images are aggregated.
    """

    sample_ids: NDArray[np.str_]  # (N,)
    prompt_ids: NDArray[np.str_]  # (N,)
    prompts: NDArray[np.str_]  # (N,)
    test_sets: NDArray[np.str_]  # (N,)
    groupings: Mapping[
        str, NDArray[np.object_]
    ]  # "category", "challenge": (N,) of names, None where there is none
    models: tuple[str, ...]
    rewards: tuple[str, ...]
    values: NDArray[np.float64]  # (M, N, R)

    def __post_init__(self) -> None:
        if not len(self.sample_ids):
            raise TgoError("there is nothing to compare: the test sets hold no sample.")

    def aggregated(self, how: Aggregate) -> ModelScores:
        """One sample a prompt, its score the `median`, `mean` or `best` of the prompt's images; `single`: unchanged.

        A prompt with an image that a model has no score for has none from that model: the best or the median of fewer
        images is another number. Raises `TgoError` if prompts have different numbers of images.
        """
        if how == "single":
            return self
        places = self._images_by_prompt()
        first = places[:, 0]
        with np.errstate(invalid="ignore"):
            values = _REDUCE[how](self.values[:, places], axis=2)
        return dataclasses.replace(
            self,
            sample_ids=self.prompt_ids[first],
            prompt_ids=self.prompt_ids[first],
            prompts=self.prompts[first],
            test_sets=self.test_sets[first],
            groupings={name: column[first] for name, column in self.groupings.items()},
            values=values,
        )

    def _images_by_prompt(self) -> NDArray[np.intp]:
        """Where the images of each prompt are, (prompts, images), prompts in the order of their first image."""
        _, starts, codes, counts = np.unique(
            self.prompt_ids, return_index=True, return_inverse=True, return_counts=True
        )
        if counts.min() != counts.max():
            raise TgoError(
                f"prompts have from {counts.min()} to {counts.max()} images: an aggregate needs as many of each. Run "
                "the stage evaluate again."
            )
        return np.argsort(starts[codes], kind="stable").reshape(len(counts), -1)

    def pairs(self, base: str, tuned: str) -> PairedScores:
        """Two of the models."""
        one, other = (self.values[self.models.index(name)] for name in (base, tuned))
        return PairedScores(
            sample_ids=self.sample_ids,
            prompt_ids=self.prompt_ids,
            prompts=self.prompts,
            test_sets=self.test_sets,
            rewards=self.rewards,
            base=one,
            tuned=other,
        )


@dataclass(frozen=True)
class PairedScores:
    """N samples of both sides in one order, scored by R rewards; NaN where a side could not be scored.

    Where the tuned side are several trainings, `trainings` (N,) says of which one each sample is.
    """

    sample_ids: NDArray[np.str_]  # (N,)
    prompt_ids: NDArray[np.str_]  # (N,)
    prompts: NDArray[np.str_]  # (N,)
    test_sets: NDArray[np.str_]  # (N,)
    rewards: tuple[str, ...]
    base: NDArray[np.float64]  # (N, R)
    tuned: NDArray[np.float64]  # (N, R)
    trainings: NDArray[np.str_] | None = None  # (N,)

    def __post_init__(self) -> None:
        if not len(self.sample_ids):
            raise TgoError("there is nothing to compare: the test sets hold no sample.")

    def complete(self) -> NDArray[np.bool_]:
        """Where both sides have a score, (N, R)."""
        return ~np.isnan(self.base) & ~np.isnan(self.tuned)

    def excluded(self) -> int:
        """How many samples lack a score of some reward on some side."""
        return int((~self.complete()).any(axis=1).sum())


def join_scores(
    frames: Mapping[str, pl.DataFrame], prompts: pl.DataFrame, rewards: Sequence[str]
) -> ModelScores:
    """Join the scores of all models on `sample_id` and name each sample's test set (the `source` of its prompt).

    Samples keep the order of the first frame; scores that are null or not finite count as missing. Raises `TgoError`
    if a sample or its prompt is missing for some model.
    """
    (first, base), *others = frames.items()
    for name, frame in others:
        _require_same_samples(first, set(base["sample_id"]), name, set(frame["sample_id"]))
    groupings = [name for name in ("category", "challenge") if name in prompts.columns]
    known = prompts.select("prompt_id", "prompt", "source", *groupings)
    named = base.select("sample_id", "prompt_id").join(
        known, on="prompt_id", how="left", maintain_order="left"
    )
    if named["source"].null_count():
        unknown = named.filter(named["source"].is_null())["prompt_id"][0]
        raise TgoError(
            f"prompt {unknown} was sampled but is not a test prompt: run the stage evaluate again."
        )
    aligned = [
        named.select("sample_id").join(frame, on="sample_id", how="left", maintain_order="left")
        for frame in frames.values()
    ]
    sample_ids, prompt_ids, texts, sources = (
        np.array(named[column].to_list(), dtype=np.str_)
        for column in ("sample_id", "prompt_id", "prompt", "source")
    )
    return ModelScores(
        sample_ids=sample_ids,
        prompt_ids=prompt_ids,
        prompts=texts,
        test_sets=sources,
        groupings={name: np.array(named[name].to_list(), dtype=object) for name in groupings},
        models=tuple(frames),
        rewards=tuple(rewards),
        values=np.stack([_matrix(frame, rewards) for frame in aligned]),
    )


def pair_scores(
    base: pl.DataFrame, tuned: pl.DataFrame, prompts: pl.DataFrame, rewards: Sequence[str]
) -> PairedScores:
    """`join_scores` of two models, as pairs."""
    return join_scores({"base": base, "tuned": tuned}, prompts, rewards).pairs("base", "tuned")


def _require_same_samples(first: str, base: set[str], name: str, other: set[str]) -> None:
    if base != other:
        raise TgoError(
            f"the models {first} and {name} were not sampled alike: {len(base)} and {len(other)} samples, "
            f"{min(base ^ other)} is on one side only. Run the stage evaluate again."
        )


def _matrix(frame: pl.DataFrame, rewards: Sequence[str]) -> NDArray[np.float64]:
    columns = [np.array(frame[name].cast(float).fill_null(math.nan), dtype=np.float64) for name in rewards]
    matrix = np.stack(columns, axis=1)
    return np.where(np.isfinite(matrix), matrix, np.nan)


def samples_table(pairs: PairedScores) -> pa.Table:
    """One row per sample and reward that has a score on both sides."""
    columns: dict[str, list[Any]] = {name: [] for name in SAMPLES.names}
    identities = {
        "sample_id": pairs.sample_ids,
        "prompt_id": pairs.prompt_ids,
        "prompt": pairs.prompts,
        "test_set": pairs.test_sets,
    }
    complete = pairs.complete()
    for index, reward in enumerate(pairs.rewards):
        kept = complete[:, index]
        for name, values in identities.items():
            columns[name] += values[kept].tolist()
        columns["reward"] += [reward] * int(kept.sum())
        columns["base"] += pairs.base[kept, index].tolist()
        columns["tuned"] += pairs.tuned[kept, index].tolist()
    return pa.table(columns, schema=SAMPLES)


def pairs_from_samples(samples: pl.DataFrame) -> PairedScores:
    """The pairs of a samples table, back in their shape (N, R).

    Several tables may be together, if their `sample_id`s differ; a column `training` then says of which training a
    sample is.
    """
    rewards = samples["reward"].unique(maintain_order=True).to_list()
    identity = ["sample_id", "prompt_id", "prompt", "test_set"]
    identity += ["training"] if "training" in samples.columns else []
    base, tuned = (
        samples.pivot(on="reward", on_columns=rewards, index=identity, values=side, maintain_order=True)
        for side in ("base", "tuned")
    )
    ids, prompt_ids, prompts, test_sets, *trainings = (
        np.array(base[name].to_list(), dtype=np.str_) for name in identity
    )
    return PairedScores(
        sample_ids=ids,
        prompt_ids=prompt_ids,
        prompts=prompts,
        test_sets=test_sets,
        rewards=tuple(rewards),
        base=_matrix(base, rewards),
        tuned=_matrix(tuned, rewards),
        trainings=trainings[0] if trainings else None,
    )
