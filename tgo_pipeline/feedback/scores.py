"""From the rows of one source of feedback to one score per image, with what was counted on the way."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import polars as pl

from tgo_pipeline.errors import TgoError
from tgo_pipeline.feedback import bradley_terry, pairwise, ratings
from tgo_pipeline.feedback.read import read
from tgo_pipeline.params.feedback import FeedbackParams


@dataclass(frozen=True)
class ImageScores:
    """The score of every image that feedback names: `images` are unique, `scores` float64 (I,)."""

    images: pl.Series
    scores: np.ndarray
    counts: dict[str, int]


def image_scores(params: FeedbackParams) -> ImageScores:
    """Read a source and score its images. Raises `TgoError` for what cannot be read, or says nothing."""
    rows, empty = read(params)
    scored = _KINDS[params.kind](rows, params)
    counts = {"rows": rows.height, "empty": empty, **scored.counts}
    if "rater" in rows.columns:
        counts["raters"] = rows["rater"].n_unique()
    return ImageScores(scored.images, scored.scores, counts)


def _rated(rows: pl.DataFrame, params: FeedbackParams) -> ImageScores:
    """Ratings and thumbs."""
    images, codes = _codes(rows["image"])
    values = rows["value"].to_numpy()
    counts = {"images": len(images)}
    if params.aggregate == "median":
        return ImageScores(images, ratings.median(values, codes), counts)
    if params.aggregate == "mean":
        return ImageScores(images, ratings.mean(values, codes), counts)
    raters = _codes(rows["rater"])[1] if "rater" in rows.columns else None
    return ImageScores(images, ratings.effects(values, codes, raters, params.shrinkage).scores, counts)


def _given(rows: pl.DataFrame, params: FeedbackParams) -> ImageScores:
    """Scores as they are. Raises `TgoError` if an image has two that differ."""
    unique = rows.select("image", "value").unique(maintain_order=True)
    twice = unique.filter(unique["image"].is_duplicated())
    if not twice.is_empty():
        name = twice["image"][0]
        values = ", ".join(f"{value:g}" for value in twice.filter(twice["image"] == name)["value"])
        raise TgoError(
            f"{params.source}: image {name!r} has several scores ({values}), and kind score takes one as it is: use "
            "kind: rating to combine them."
        )
    return ImageScores(unique["image"], unique["value"].to_numpy(), {"images": unique.height})


def _compared(rows: pl.DataFrame, params: FeedbackParams) -> ImageScores:
    alone = rows["first"] == rows["second"]
    rows = rows.filter(~alone)
    if rows.is_empty():
        raise TgoError(
            f"{params.source}: every row compares an image with itself; check the columns of both images."
        )
    images, codes = _codes(pl.concat([rows["first"], rows["second"].rename("first")]))
    first, second = codes[: rows.height], codes[rows.height :]
    choice = rows["choice"].to_numpy()
    counted = pairwise.tally(first, second, choice, len(images))
    counts = {
        "images": len(images),
        "ties": int((choice == 0.5).sum()),
        "images_both_win_and_lose": int(((counted.wins > 0) & (counted.losses > 0)).sum()),
        "images_only_tied": int((counted.ties == counted.comparisons).sum()),
        "compared_with_itself": int(alone.sum()),
    }
    if params.rule == "bradley_terry":
        scores = bradley_terry.strengths(first, second, choice, len(images), params.shrinkage)
    else:
        scores = _RULES[params.rule](counted)
    return ImageScores(images, scores, counts)


def _codes(names: pl.Series) -> tuple[pl.Series, np.ndarray]:
    """The different names in the order in which they come, and the place of each name among them, int64 (N,)."""
    unique = names.unique(maintain_order=True)
    places = pl.DataFrame({"name": unique}).with_row_index("code")
    found = names.rename("name").to_frame().join(places, on="name", how="left", maintain_order="left")
    return unique, found["code"].to_numpy().astype(np.int64)


_RULES: dict[str, Callable[[pairwise.Tally], np.ndarray]] = {
    "any_win": pairwise.any_win,
    "wins": pairwise.wins,
    "win_rate": pairwise.win_rate,
    "wins_minus_losses": pairwise.wins_minus_losses,
}
_KINDS: dict[str, Callable[[pl.DataFrame, FeedbackParams], ImageScores]] = {
    "rating": _rated,
    "thumb": _rated,
    "score": _given,
    "pair": _compared,
}
