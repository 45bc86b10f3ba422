"""The `score.feedback` section: scores that people gave, read from a table instead of computed by a model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params.checks import positive


@dataclass(frozen=True, kw_only=True)
class FeedbackParams:
    """One score column made of feedback.

    `source` is a table, here or on the hub (`hf:`), or a preference data set. `kind` says
    what a row is: a `rating` of one image by one rater, a `thumb` (up or down), a `pair` of images with a choice, or a
    `score` of one image that is taken as it is. Columns of a file (a data set has its own): `image` names the image,
    `value` the rating, thumb or score, `rater` who gave it; for pairs `first`, `second` and `choice` (which won: 1 the
    first, 0 the second, 0.5 a tie). `aggregate` makes one score of an image's several ratings or thumbs, `rule` one of
    its comparisons. `low` and `high` are the ends of the scale: a value outside is refused. `shrinkage` counts as that
    many ratings at the mean (`aggregate: shrunk`), or draws with an average image (`rule: bradley_terry`).
    """

    source: str
    kind: Literal["rating", "thumb", "pair", "score"]
    image: str = "file_name"
    value: str = "rating"
    rater: str | None = None
    first: str = "image_0_uid"
    second: str = "image_1_uid"
    choice: str = "label_0"
    low: float | None = None
    high: float | None = None
    aggregate: Literal["mean", "median", "shrunk"] = "mean"
    shrinkage: float = 2.0
    rule: Literal["any_win", "wins", "win_rate", "wins_minus_losses", "bradley_terry"] = "win_rate"

    def __post_init__(self) -> None:
        positive(shrinkage=self.shrinkage)
        if not self.source:
            raise TgoError("source is empty: name a table, here or on the hub, or a preference data set.")
        if self.low is not None and self.high is not None and not self.low < self.high:
            raise TgoError(f"low is {self.low:g} and high is {self.high:g}: low must be below high.")
        if self.kind in ("thumb", "pair") and (self.low is not None or self.high is not None):
            raise TgoError(
                f"low or high is given although kind is {self.kind}: they are for ratings and scores."
            )

    @property
    def settings(self) -> dict[str, Any]:
        """What the scores depend on besides the rows of the source: the keys that matter for this kind."""
        keys = ["kind", *_KEYS[self.kind]]
        if {"pair": self.rule, "score": None}.get(self.kind, self.aggregate) in ("shrunk", "bradley_terry"):
            keys.append("shrinkage")
        return {key: getattr(self, key) for key in keys}


_KEYS = {
    "rating": ("image", "value", "rater", "aggregate"),
    "thumb": ("image", "value", "rater", "aggregate"),
    "pair": ("first", "second", "choice", "rule"),
    "score": ("image", "value"),
}
