"""Which images the report shows: examples around tau, and before/after pairs picked by a stated rule."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.evaluation.statistics.scores import SAMPLES
from tgo_pipeline.params import Params
from tgo_pipeline.rendering.text import decimals
from tgo_pipeline.report.clips import ShownClip
from tgo_pipeline.report.collect import scan_labels
from tgo_pipeline.report.thumbnails import Album, Thumbnail, read_images
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.storage.paths import parquet_files
from tgo_pipeline.storage.tables import read_table
from tgo_pipeline.storage.workspace import Workspace

if TYPE_CHECKING:
    import polars as pl

SPREAD = 16  # candidates per shown example, so that each prompt appears at most once


@dataclass(frozen=True)
class Example:
    """A labelled training image; score and relative score (score - tau) in the target's units."""

    sample_id: str
    prompt: str
    thumbnail: Thumbnail
    score: float
    relative_score: float
    label: int
    weight: float


@dataclass(frozen=True)
class Examples:
    """The best, the worst and the samples nearest tau, at most one image a prompt in each."""

    best: list[Example]
    worst: list[Example]
    nearest: list[Example]

    @property
    def decimals(self) -> int:
        """Decimals for scores, from how far the shown ones spread."""
        shown = [example.score for example in (*self.best, *self.worst)]
        return decimals((max(shown, default=0.0) - min(shown, default=0.0)) / 4)


@dataclass(frozen=True)
class Pair:
    """Base and tuned image of one prompt and seed; `scores` maps a reward to its two values."""

    sample_id: str
    prompt: str
    test_set: str
    base: Thumbnail
    tuned: Thumbnail
    difference: float
    scores: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class ExamplePairs:
    """Pairs picked by rule, and per emphasised reward the differences of all pairs and the decimals worth showing."""

    reward: str
    total: int
    gained: int
    lost: int
    drawn: list[Pair]
    gains: list[Pair]
    losses: list[Pair]
    differences: dict[str, list[float]]
    decimals: dict[str, int]


def examples(labels: Path, generations: Path, how_many: int, album: Album) -> Examples | None:
    """The best and worst by target score and the samples nearest tau, with their images."""
    frame = scan_labels(labels)
    if frame is None or not parquet_files(generations):
        return None
    import polars as pl

    away = pl.col("relative_score").abs()
    orders = {"best": -pl.col("score"), "worst": pl.col("score"), "nearest": away}
    picked = {name: _first(frame, order, how_many) for name, order in orders.items()}
    ids = [row["sample_id"] for rows in picked.values() for row in rows]
    images = read_images(generations, ids)
    shown = {name: [_example(row, images, album) for row in rows] for name, rows in picked.items()}
    return Examples(**shown)


def _first(frame: pl.LazyFrame, order: pl.Expr, how_many: int) -> list[dict[str, Any]]:
    candidates = frame.bottom_k(how_many * SPREAD, by=[order, "sample_id"]).collect(engine="streaming")
    ranked = candidates.sort(order, "sample_id").unique("prompt_id", keep="first", maintain_order=True)
    return ranked.head(how_many).to_dicts()


def _example(
    row: Mapping[str, Any], images: Mapping[str, tuple[str, bytes | ShownClip | None]], album: Album
) -> Example:
    prompt, data = images.get(row["sample_id"], ("(its generation is missing)", None))
    kept = {name: row[name] for name in ("sample_id", "score", "relative_score", "label", "weight")}
    return Example(prompt=prompt, thumbnail=album.add(data), **kept)


def pairs(params: Params, workspace: Workspace, shown: list[str], album: Album) -> ExamplePairs | None:
    """A seeded draw of test images, the largest gains and the largest losses by a reward.

    `shown` are the shown names of the rewards whose values stand below a pair; the first of them chooses. Raises
    `TgoError` for a table of the wrong schema.
    """
    if not workspace.samples.is_file() or not shown:
        return None
    import polars as pl

    samples = pl.DataFrame(read_table(workspace.samples, SAMPLES)).drop_nulls(["base", "tuned"])
    names = {name: params.shown_names(name) for name in samples["reward"].unique()}
    samples = samples.with_columns(pl.col("reward").replace(names))
    rows = samples.filter(pl.col("reward") == shown[0]).with_columns(
        difference=pl.col("tuned") - pl.col("base")
    )
    by_id = {row["sample_id"]: row for row in rows.iter_rows(named=True)}
    groups = _pick(by_id, params)
    wanted = {sample_id for ids in groups.values() for sample_id in ids}
    values = _values(samples.filter(pl.col("sample_id").is_in(wanted)))
    base, tuned = (read_images(workspace.side(name), wanted) for name in ("base", "tuned"))

    def pair(sample_id: str) -> Pair:
        row = by_id[sample_id]
        before, after = (album.add(side.get(sample_id, ("", None))[1]) for side in (base, tuned))
        scores = {name: values[sample_id][name] for name in shown if name in values[sample_id]}
        return Pair(sample_id, row["prompt"], row["test_set"], before, after, row["difference"], scores)

    parts = {name: samples.filter(pl.col("reward") == name) for name in shown}
    made = {name: [pair(sample_id) for sample_id in ids] for name, ids in groups.items()}
    return ExamplePairs(
        reward=shown[0],
        total=len(by_id),
        gained=sum(row["difference"] > 0 for row in by_id.values()),
        lost=sum(row["difference"] < 0 for row in by_id.values()),
        differences={name: (part["tuned"] - part["base"]).to_list() for name, part in parts.items()},
        decimals={name: decimals(10 * _spread(part["base"])) for name, part in parts.items()},
        **made,
    )


def _pick(rows: Mapping[str, Mapping[str, Any]], params: Params) -> dict[str, list[str]]:
    extremes = params.report.pairs // 3
    drawn = sorted(rows, key=lambda sample_id: derive_seed(params.seed, sample_id, "report"))
    ranked = sorted(rows, key=lambda sample_id: (rows[sample_id]["difference"], sample_id))
    return {
        "drawn": drawn[: params.report.pairs - 2 * extremes],
        "gains": [i for i in reversed(ranked) if rows[i]["difference"] > 0][:extremes],
        "losses": [i for i in ranked if rows[i]["difference"] < 0][:extremes],
    }


def _values(samples: pl.DataFrame) -> dict[str, dict[str, tuple[float, float]]]:
    values: dict[str, dict[str, tuple[float, float]]] = {}
    for row in samples.iter_rows(named=True):
        values.setdefault(row["sample_id"], {})[row["reward"]] = (row["base"], row["tuned"])
    return values


def _spread(values: pl.Series) -> float:
    return float(values.to_numpy().std()) if len(values) else 0.0
