"""The samples that the gallery draws from: training images with their labels, test images of every model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from tgo_pipeline.evaluation.statistics.scores import SAMPLES
from tgo_pipeline.params import Params
from tgo_pipeline.report.collect import scan_labels
from tgo_pipeline.storage import tables
from tgo_pipeline.storage.paths import file_name, parquet_files
from tgo_pipeline.storage.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

TRAINING = "training"
CANDIDATES = 200_000
"""Rows that are looked at in full; of more training samples the extremes of the target and an even stride are."""
DISAGREEMENT = "disagreement"
_IDENTITY = {"sample_id", "prompt_id", "error"}


@dataclass(frozen=True)
class Candidates:
    """Samples with their scores, without images, in the order of the run.

    `frame` has `split` (training, or the test set), `model` (empty for training images), `sample_id`, one float
    column per shown name in `rewards` (null where there is no score), `label`, `weight`, `relative_score`, `error` and
    `disagreement`: the standard deviation of the rewards' percentile ranks. `total` counts the run's samples.
    """

    frame: pl.DataFrame
    rewards: list[str]
    total: int


def candidates(params: Params, workspace: Workspace) -> Candidates | None:
    """All samples of a run that have been scored, or None if there is not one.

    Raises `TgoError` for a table of the wrong schema.
    """
    import polars as pl

    target = params.target.reward
    parts = [_training(workspace, target, params.report.gallery), *_tested(params, workspace)]
    found = [part for part in parts if part is not None]
    if not found:
        return None
    frame = pl.concat([part for part, _ in found], how="diagonal")
    filled, given = params.reward_columns, params.score.columns
    rewards = [name for name in dict.fromkeys([target, *given, *filled]) if name in frame.columns]
    parts = {name for name, spec in filled.items() if name != spec.column}
    members = [name for name in rewards if (name != target or target in given) and name not in parts]
    names = {name: params.shown_names(name) for name in rewards}
    frame = frame.with_columns(disagreement(members)).rename(names)
    return Candidates(frame, list(names.values()), sum(total for _, total in found))


def model_folders(params: Params, workspace: Workspace) -> dict[str, Path]:
    """Where the images of each evaluated model lie, by the model's name: base, tuned, then the others."""
    names = ("base", "tuned", *params.evaluate.models)
    folders = {name: workspace.side(file_name(name)) for name in names}
    return {name: folder for name, folder in folders.items() if folder.is_dir()}


def _shards(folder: Path) -> list[Path]:
    return parquet_files(folder)


def _reward_columns(shard: Path) -> list[str]:
    schema = tables.read_schema(shard)
    tables.check_schema(schema, tables.scores_schema([]), shard)
    return [field.name for field in schema if pa.types.is_floating(field.type)]


def _scores(shards: Sequence[Path]) -> pl.LazyFrame:
    import polars as pl

    columns = ["sample_id", "prompt_id", *_reward_columns(shards[0]), "error"]
    scores = tables.scan(shards).select(columns)
    finite = [
        pl.when(pl.col(name).is_finite()).then(pl.col(name).cast(pl.Float64)).alias(name)
        for name in columns
        if name not in _IDENTITY
    ]
    return scores.with_columns(finite)


def _training(workspace: Workspace, target: str, gallery: int) -> tuple[pl.DataFrame, int] | None:
    import polars as pl

    shards = _shards(workspace.scores)
    if not shards:
        return None
    total = sum(tables.row_count(shard) for shard in shards)
    scores, labels = _scores(shards), scan_labels(workspace.labels)
    if total > CANDIDATES:
        scores = _thinned(scores, labels, total, gallery)
    frame = scores.collect(engine="streaming").with_columns(split=pl.lit(TRAINING), model=pl.lit(""))
    if labels is None:
        return frame, total
    known = labels.select("sample_id", "relative_score", "label", "weight", pl.col("score").alias(target))
    known = known.filter(pl.col("sample_id").is_in(frame["sample_id"].implode())).collect(engine="streaming")
    if target in frame.columns:
        known = known.drop(target)
    return frame.join(known, on="sample_id", how="left", maintain_order="left"), total


def _thinned(scores: pl.LazyFrame, labels: pl.LazyFrame | None, total: int, gallery: int) -> pl.LazyFrame:
    """An even stride over the run with the samples at both ends of the target, so that no extreme is lost."""
    import polars as pl

    kept = pl.col("row") % (total // CANDIDATES + 1) == 0
    if labels is not None:
        ends = (labels.bottom_k(gallery, by=order) for order in ("score", -pl.col("score")))
        ids = pl.concat([end.select("sample_id") for end in ends]).collect(engine="streaming")["sample_id"]
        kept = kept | pl.col("sample_id").is_in(ids.implode())
    return scores.with_row_index("row").filter(kept).drop("row")


def _tested(params: Params, workspace: Workspace) -> list[tuple[pl.DataFrame, int] | None]:
    import polars as pl

    if not workspace.samples.is_file():
        return []
    samples = pl.DataFrame(tables.read_table(workspace.samples, SAMPLES))
    sets = samples.select("prompt_id", split="test_set").unique("prompt_id")
    parts = []
    for name, generations in model_folders(params, workspace).items():
        shards = _shards(generations.parent / "scores")
        if not shards:
            continue
        frame = _scores(shards).collect().join(sets, on="prompt_id", how="left", maintain_order="left")
        frame = _with_target(frame, name, samples, params, workspace)
        frame = frame.with_columns(pl.col("split").fill_null("test"), model=pl.lit(name))
        parts.append((frame, frame.height))
    return parts


def _with_target(
    frame: pl.DataFrame, model: str, samples: pl.DataFrame, params: Params, workspace: Workspace
) -> pl.DataFrame:
    """The scores of a model with its target score, where there is one and it is not a reward itself.

    Of base and tuned model the evaluation has it; of a further model it is combined as the evaluation does.
    """
    import polars as pl

    from tgo_pipeline.evaluation.target import Target

    target = params.target.reward
    if target in frame.columns or not params.target_is_scored_anywhere:
        return frame
    if model in samples.columns:
        known = samples.filter(pl.col("reward") == target).select("sample_id", pl.col(model).alias(target))
        return frame.join(known, on="sample_id", how="left", maintain_order="left")
    if not (workspace.thresholds.is_file() and parquet_files(workspace.scores)):
        return frame
    combined = Target.read(params, workspace).add_to(frame)
    return combined.with_columns(pl.col(target).fill_nan(None))


def disagreement(rewards: Sequence[str]) -> pl.Expr:
    """How far the rewards' percentile ranks (0 to 1, among training and among test samples) lie apart."""
    import polars as pl

    if len(rewards) < 2:
        return pl.lit(None, dtype=pl.Float64).alias(DISAGREEMENT)
    tested = pl.col("split") != TRAINING
    ranks = [((pl.col(name).rank() - 0.5) / pl.col(name).count()).over(tested) for name in rewards]
    spread = pl.concat_list(ranks).list.drop_nulls()
    apart = pl.when(spread.list.len() > 1).then(spread.list.std(ddof=0))
    return apart.alias(DISAGREEMENT)
