"""The page of `tgo score --report`: every reward's scores, best and worst images, where rewards disagree, a gallery."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tgo_pipeline.images.base import are_clips, picked
from tgo_pipeline.params import ReportParams
from tgo_pipeline.rendering import text
from tgo_pipeline.report.build import album_of, filled
from tgo_pipeline.report.charts.sections import Spec, score_histogram
from tgo_pipeline.report.clips import of_master
from tgo_pipeline.report.collect import HistogramBin
from tgo_pipeline.report.gallery.gallery import Exhibition, first_units
from tgo_pipeline.report.gallery.samples import DISAGREEMENT, Candidates, disagreement
from tgo_pipeline.report.thumbnails import Album, Thumbnail
from tgo_pipeline.rewards.engine.decode import UnreadableImage
from tgo_pipeline.rewards.engine.images import read_content
from tgo_pipeline.rewards.toys import ShownNames, meaning
from tgo_pipeline.scoring.command.options import Call
from tgo_pipeline.scoring.command.run import open_sources
from tgo_pipeline.scoring.command.summary import TOYS
from tgo_pipeline.storage.tables import read_metadata, read_table
from tgo_pipeline.storage.writing import atomic

if TYPE_CHECKING:
    import polars as pl

log = logging.getLogger("tgo")
ENDS, APART = 6, 12
"""Images in a row of best or worst ones, and of those that rewards disagree on."""
BINS = 40
"""Bars of a chart at most; of fewer scores Rice's rule, twice the cube root of their number."""
FAILURES = 100
"""Rows of the list of images that could not be scored; the table has all."""
QUANTILES = (0.0, 0.05, 0.5, 0.95, 1.0)
MOST_CLIPS = 200
"""Of the gallery: a preview of each is made, in about a second for five of video."""
LIMITS = ReportParams()
"""The page is as large as that of a run, and its gallery has as many samples."""


@dataclass(frozen=True)
class RewardView:
    """What the page says of one reward; `scores` has None where there is none, rows are those of the table.

    `statistics` are mean, standard deviation and quantiles, `correlations` those of ranks with every reward.
    """

    name: str
    meaning: str
    scores: list[float | None]
    n: int
    decimals: int
    statistics: list[float | None]
    chart: Spec | None
    best: list[int]
    worst: list[int]
    correlations: list[float | None]


def build(call: Call, to: Path) -> None:
    """Write the page of a finished call to a file. Raises `TgoError` where its images are gone."""
    page = render(call)
    with atomic(to) as temporary:
        temporary.write_text(page, encoding="utf-8")
    log.info("%s: %s", to, text.size(to.stat().st_size))


def render(call: Call) -> str:
    """The page as text; it names no time and no folder but those of the images."""
    import polars as pl

    about = read_metadata(call.table)["rewards"]
    frame = pl.DataFrame(read_table(call.table))
    shown = ShownNames.of({name: facts.get("source") for name, facts in about.items()})
    columns = [_column(frame, name, about, shown) for name in about]
    frame = frame.rename({"image": "sample_id"}).with_columns(
        *(pl.col(name).cast(pl.Float64) for name in about), split=pl.lit(""), model=pl.lit("")
    )
    whole = [name for name, facts in about.items() if "part" not in facts]
    frame = frame.with_columns(disagreement(whole))
    apart = _first(-frame[DISAGREEMENT], APART) if len(whole) > 1 else []
    rows = sorted({*apart, *(row for column in columns for row in (*column.best, *column.worst))})
    shots = _Images(call, frame["prompt"].to_list())
    what = "clip" if shots.clips else "image"
    album = album_of(LIMITS.max_mb, len(rows))
    context = {
        "title": f"Scores of {text.count(frame.height)} {what}{'s' * (frame.height != 1)}",
        "kicker": f"{what.capitalize()} scores",
        "what": what,
        "contents": _contents(len(whole) > 1, frame["error"].null_count() < frame.height),
        "max_mb": LIMITS.max_mb,
        "columns": columns,
        "total": frame.height,
        "failed": frame.height - frame["error"].null_count(),
        "failures": frame.drop_nulls("error").select("sample_id", "error").head(FAILURES).rows(),
        "toys": TOYS if shown.toys else "",
        "apart": apart,
        "images": frame["sample_id"].to_list(),
        "prompts": frame["prompt"].to_list(),
        "thumbnails": _thumbnails(shots, rows, album),
        "album": album,
    }
    named = dict(zip(about, (column.name for column in columns), strict=True))
    found = Candidates(frame.rename(named), list(named.values()), frame.height)
    most = MOST_CLIPS if shots.clips else LIMITS.gallery
    exhibition = Exhibition(found, first_units(found, most), shots.stream)
    return filled(
        "scored.html.j2",
        context,
        exhibition,
        LIMITS.max_mb,
        "the page is too large: {what}; name fewer rewards.",
    )


def _contents(several: bool, failed: bool) -> list[tuple[str, str]]:
    every = [
        ("rewards", "Rewards", True),
        ("ends", "Best and worst", True),
        ("apart", "Where rewards disagree", several),
        ("gallery", "Gallery", True),
        ("failures", "Not scored", failed),
    ]
    return [(place, name) for place, name, there in every if there]


def _column(frame: pl.DataFrame, name: str, about: dict[str, Any], shown: ShownNames) -> RewardView:
    scores = frame[name].cast(float)
    values = scores.drop_nulls().to_numpy()
    std = float(values.std(ddof=1)) if len(values) > 1 else None
    ends = [float(end) for end in np.quantile(values, QUANTILES)] if len(values) else [None] * len(QUANTILES)
    return RewardView(
        name=shown(name),
        meaning=meaning(about[name]) + ("; a toy of the demo" if name in shown.toys else ""),
        scores=scores.to_list(),
        n=len(values),
        decimals=text.decimals(std),
        statistics=[float(values.mean()) if len(values) else None, std, *ends],
        chart=_chart(values) if len(values) else None,
        best=_first(-scores, ENDS),
        worst=_first(scores, ENDS),
        correlations=[_correlation(frame, name, other) for other in about],
    )


def _chart(values: np.ndarray) -> Spec:
    counts, edges = np.histogram(values, bins=min(BINS, max(5, int(2 * len(values) ** (1 / 3)))))
    bins = zip(edges[:-1].tolist(), edges[1:].tolist(), counts.tolist(), strict=True)
    return score_histogram([HistogramBin(*each) for each in bins], None)


def _first(values: pl.Series, most: int) -> list[int]:
    """The rows of the smallest values, in their order; those without one are left out."""
    order = values.arg_sort(nulls_last=True).to_list()
    return order[: min(most, len(values) - values.null_count())]


def _correlation(frame: pl.DataFrame, one: str, other: str) -> float | None:
    from scipy.stats import spearmanr

    both = frame.select(one, other).drop_nulls() if one != other else frame.select(one).drop_nulls()
    if one == other or both.height < 3 or any(both[name].n_unique() < 2 for name in (one, other)):
        return None
    found: Any = spearmanr(both[one].to_numpy(), both[other].to_numpy())
    return float(found.statistic)


class _Images:
    """The images of a call by their rows, read again from where they are."""

    def __init__(self, call: Call, prompts: Sequence[str | None]) -> None:
        self._call, self._prompts = call, prompts
        self.clips = are_clips(open_sources(call))

    def stream(self, rows: Sequence[int], columns: Sequence[str]) -> Iterator[tuple[int, dict[str, Any]]]:
        """`prompt` and `seed`, or the bytes of `image`, of some rows."""
        if "image" not in columns:
            yield from ((row, {"prompt": self._prompts[row] or "", "seed": None}) for row in rows)
            return
        for row, found in picked(open_sources(self._call), set(rows)):
            try:
                data = read_content(found.content)
            except UnreadableImage:  # the column `error` says why
                data = None
            yield row, {"image": of_master(data) if data and self.clips else data}


def _thumbnails(shots: _Images, rows: Sequence[int], album: Album) -> dict[int, Thumbnail]:
    gone = Thumbnail(None, reason="the image is not there any more")
    made = dict.fromkeys(rows, gone)
    for row, found in shots.stream(rows, ["image"]):
        made[row] = album.add(found["image"])
    return made
