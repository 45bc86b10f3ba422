"""The table of models: where each one's scores lie, per part of the test prompts, and how diverse it draws."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.statistics.breakdown import CELL_FIELDS, SampleSubset, cells
from tgo_pipeline.evaluation.statistics.diversity import CLIP, PIXELS
from tgo_pipeline.evaluation.statistics.intervals import bootstrap_means, spread
from tgo_pipeline.evaluation.statistics.scores import ModelScores
from tgo_pipeline.params import EvaluateParams
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.storage.tables import with_features

if TYPE_CHECKING:
    import polars as pl

MEASURES = (PIXELS, CLIP)
_DIVERSITY = [f"{measure}{end}" for measure in MEASURES for end in ("", "_low", "_high")]
MODELS = with_features(
    pa.schema(
        [
            pa.field("model", pa.string(), nullable=False),
            *CELL_FIELDS,
            pa.field("reward", pa.string(), nullable=False),
            pa.field("is_target", pa.bool_(), nullable=False),
            pa.field("aggregate", pa.string(), nullable=False),
            *(pa.field(name, pa.int64(), nullable=False) for name in ("n", "n_prompts", "n_missing")),
            *(
                pa.field(name, pa.float64())
                for name in ("mean", "mean_low", "mean_high", "median", "std", *_DIVERSITY)
            ),
        ]
    )
)


@dataclass(frozen=True)
class Diversity:
    """How different the images of each of P prompts are, for M models; NaN where it was not measured."""

    prompt_ids: NDArray[np.str_]  # (P,)
    values: NDArray[np.float64]  # (M, P, 2), in the order of `MEASURES`

    @classmethod
    def join(cls, frames: Mapping[str, pl.DataFrame]) -> Diversity:
        """From a frame of `diversity.DIVERSITY` for each model. Raises `TgoError` if their prompts differ."""
        ordered = [frame.sort("prompt_id") for frame in frames.values()]
        prompt_ids = ordered[0]["prompt_id"]
        for name, frame in zip(frames, ordered, strict=True):
            if not frame["prompt_id"].equals(prompt_ids):
                raise TgoError(f"the diversity of {name} is of other prompts: run the stage evaluate again.")
        values = [frame.select(MEASURES).fill_null(math.nan).to_numpy().astype(float) for frame in ordered]
        return cls(np.array(prompt_ids.to_list(), dtype=np.str_), np.stack(values))


def models_table(
    scores: ModelScores,
    target: str | None,
    params: EvaluateParams,
    seed: int,
    diversity: Diversity | None = None,
) -> pa.Table:
    """One row per model, cell and reward; schema `MODELS`. `scores` are aggregated already.

    A model's numbers are over the samples that it has a score for (`n`; `n_missing` it has none for). Intervals of
    means resample prompts: null for a single prompt.
    """
    resampling = derive_seed(seed, "prompts", "bootstrap")
    rows = []
    for cell in cells(scores):
        diversities = _diversities(cell, scores, diversity, params, resampling)
        rows += _rows(cell, scores, target, params, resampling, diversities)
    return pa.Table.from_pylist(rows, schema=MODELS)


def _rows(
    cell: SampleSubset,
    scores: ModelScores,
    target: str | None,
    params: EvaluateParams,
    seed: int,
    diversities: list[dict[str, float | None]],
) -> list[dict[str, Any]]:
    values, clusters = scores.values[:, cell.chosen], scores.prompt_ids[cell.chosen]
    low, high = _intervals(values, clusters, params, seed)
    return [
        {"model": model, **cell.names, "reward": reward, "is_target": reward == target}
        | {"aggregate": params.aggregate}
        | _summary(values[m, :, r], clusters)
        | {"mean_low": or_none(low[m, r]), "mean_high": or_none(high[m, r])}
        | diversities[m]
        for m, model in enumerate(scores.models)
        for r, reward in enumerate(scores.rewards)
    ]


def _intervals(
    values: NDArray, clusters: NDArray, params: EvaluateParams, seed: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Bootstrap intervals (M, R), (M, R) of the means over axis 1 of (M, n, R)."""
    models, n, rewards = values.shape
    low, high = bootstrap_means(
        values.transpose(1, 0, 2).reshape(n, models * rewards),
        clusters,
        resamples=params.bootstrap,
        confidence=params.confidence,
        seed=seed,
    )
    return low.reshape(models, rewards), high.reshape(models, rewards)


def _summary(values: NDArray, clusters: NDArray) -> dict[str, Any]:
    known = ~np.isnan(values)
    kept = values[known]
    return {
        "n": len(kept),
        "n_prompts": len(np.unique(clusters[known])),
        "n_missing": int((~known).sum()),
        "mean": float(kept.mean()) if len(kept) else None,
        "median": float(np.median(kept)) if len(kept) else None,
        "std": spread(kept) if len(kept) > 1 else None,
    }


def _diversities(
    cell: SampleSubset, scores: ModelScores, diversity: Diversity | None, params: EvaluateParams, seed: int
) -> list[dict[str, float | None]]:
    """The diversity columns of every model; all null where it is not measured."""
    if diversity is None:
        return [dict.fromkeys(_DIVERSITY)] * len(scores.models)
    chosen = np.isin(diversity.prompt_ids, scores.prompt_ids[cell.chosen])
    values, clusters = diversity.values[:, chosen], diversity.prompt_ids[chosen]
    low, high = _intervals(values, clusters, params, seed)
    known = ~np.isnan(values)
    with np.errstate(invalid="ignore"):
        means = np.where(known, values, 0.0).sum(axis=1) / known.sum(axis=1)
    return [
        {
            f"{measure}{end}": or_none(found[m, k])
            for k, measure in enumerate(MEASURES)
            for end, found in (("", means), ("_low", low), ("_high", high))
        }
        for m in range(len(scores.models))
    ]


def or_none(value: float) -> float | None:
    """A number for a table: null instead of NaN."""
    return None if math.isnan(value) else float(value)
