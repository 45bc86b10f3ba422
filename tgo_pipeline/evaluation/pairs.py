"""The scores of both sides, sample by sample."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tgo_pipeline.errors import TgoError
from tgo_pipeline.tables import with_features

if TYPE_CHECKING:
    import polars as pl

ALL = "all"  # every test set together
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
class Pairs:
    """N samples of both sides in one order, scored by R rewards; NaN where a side could not be scored."""

    sample_ids: NDArray[np.str_]  # (N,)
    prompt_ids: NDArray[np.str_]  # (N,)
    prompts: NDArray[np.str_]  # (N,)
    test_sets: NDArray[np.str_]  # (N,)
    rewards: tuple[str, ...]
    base: NDArray[np.float64]  # (N, R)
    tuned: NDArray[np.float64]  # (N, R)

    def __post_init__(self) -> None:
        if not len(self.sample_ids):
            raise TgoError("there is nothing to compare: the test sets hold no sample.")

    def complete(self) -> NDArray[np.bool_]:
        """Where both sides have a score, (N, R)."""
        return ~np.isnan(self.base) & ~np.isnan(self.tuned)

    def excluded(self) -> int:
        """How many samples lack a score of some reward on some side."""
        return int((~self.complete()).any(axis=1).sum())


def pair_scores(
    base: pl.DataFrame, tuned: pl.DataFrame, prompts: pl.DataFrame, rewards: Sequence[str]
) -> Pairs:
    """Join the scores of the two sides on `sample_id` and name each sample's test set (the `source` of its prompt).

    Samples keep the order of `base`; scores that are null or not finite count as missing. Raises `TgoError` if a
    sample or its prompt is missing on one side.
    """
    _require_same_samples(set(base["sample_id"]), set(tuned["sample_id"]))
    named = base.select("sample_id", "prompt_id").join(
        prompts.select("prompt_id", "prompt", "source"), on="prompt_id", how="left", maintain_order="left"
    )
    if named["source"].null_count():
        unknown = named.filter(named["source"].is_null())["prompt_id"][0]
        raise TgoError(f"prompt {unknown} was sampled but is no test prompt: run the stage evaluate again.")
    aligned = named.select("sample_id").join(tuned, on="sample_id", how="left", maintain_order="left")
    sample_ids, prompt_ids, texts, sources = (
        np.array(named[column].to_list(), dtype=np.str_)
        for column in ("sample_id", "prompt_id", "prompt", "source")
    )
    return Pairs(
        sample_ids=sample_ids,
        prompt_ids=prompt_ids,
        prompts=texts,
        test_sets=sources,
        rewards=tuple(rewards),
        base=_matrix(base, rewards),
        tuned=_matrix(aligned, rewards),
    )


def _require_same_samples(base: set[str], tuned: set[str]) -> None:
    if base != tuned:
        raise TgoError(
            f"base and tuned model were not sampled alike: {len(base)} and {len(tuned)} samples, "
            f"{min(base ^ tuned)} is on one side only. Run the stage evaluate again."
        )


def _matrix(frame: pl.DataFrame, rewards: Sequence[str]) -> NDArray[np.float64]:
    columns = [np.array(frame[name].cast(float).fill_null(math.nan), dtype=np.float64) for name in rewards]
    matrix = np.stack(columns, axis=1)
    return np.where(np.isfinite(matrix), matrix, np.nan)


def samples_table(pairs: Pairs) -> pa.Table:
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


def pairs_from_samples(samples: pl.DataFrame) -> Pairs:
    """The pairs of a samples table (or of several, if their `sample_id`s differ), back in their shape (N, R)."""
    rewards = samples["reward"].unique(maintain_order=True).to_list()
    identity = ["sample_id", "prompt_id", "prompt", "test_set"]
    base, tuned = (
        samples.pivot(on="reward", on_columns=rewards, index=identity, values=side, maintain_order=True)
        for side in ("base", "tuned")
    )
    ids, prompt_ids, prompts, test_sets = (np.array(base[name].to_list(), dtype=np.str_) for name in identity)
    return Pairs(
        sample_ids=ids,
        prompt_ids=prompt_ids,
        prompts=prompts,
        test_sets=test_sets,
        rewards=tuple(rewards),
        base=_matrix(base, rewards),
        tuned=_matrix(tuned, rewards),
    )
