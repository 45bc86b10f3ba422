"""Labels 1[s >= b] and confidence weights w = 1 + c|s - b| of Threshold-Guided Optimization (arXiv 2605.04653).

b is the global tau, or with another `threshold.baseline` what the sample's own prompt or group gives.

The weight is not free of scale: scores that spread by 0.03 (HPSv2) make w about 1 whatever c is, scores that spread
by 1 (ImageReward) reach 10. `scale` measures the distance to tau in other units than the score's own.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

import numpy as np

from tgo_pipeline.errors import TgoError
from tgo_pipeline.thresholds.streams.sorted_parts import SortedParts
from tgo_pipeline.thresholds.targets import ScoreUnit, mid_ranks, standard_deviation

if TYPE_CHECKING:
    from tgo_pipeline.params import LabelParams
    from tgo_pipeline.thresholds.streams.column import ScoreColumn

MAD_TO_STD = (
    1.4826  # 1 / quantile of the normal distribution at 3/4: the MAD of normal scores becomes their std
)
NEED_ALL = ("mad", "rank")
"""Scales whose unit takes all scores in memory, 8 bytes each."""
Ties = Literal["positive", "negative"]
Scale = Literal["raw", "std", "mad", "rank"]


def labels(scores: np.ndarray, tau: float | np.ndarray, ties: Ties = "positive") -> np.ndarray:
    """1 where a score is at or above tau (above it, with `ties="negative"`), else 0; int8 (N,).

    `tau` is one number or one for each sample (N,).

    Raises `TgoError` if a score is not finite: it belongs to neither side.
    """
    _require_finite(scores)
    above = scores >= tau if ties == "positive" else scores > tau
    return above.astype(np.int8)


def weights(
    scores: np.ndarray,
    tau: float | np.ndarray,
    c: float,
    scale: Scale = "raw",
    reference: np.ndarray | None = None,
) -> np.ndarray:
    """w = 1 + c d of each score (N,), float64, where d is its distance to tau, or its own (N,), in units of `scale`.

    `raw`: |s - tau|, the paper's; `std`: divided by the standard deviation; `mad`: by 1.4826 times the median
    absolute deviation from the median; `rank`: |F(s) - F(tau)| with F the mid-rank distribution function, so that w
    is at most 1 + c. The unit comes from `reference`, the finite scores of the training set (default: `scores`).
    Raises `TgoError` if a score is not finite or the unit is zero.
    """
    _require_finite(scores)
    if c == 0:
        return np.ones(len(scores))
    known = np.asarray(scores if reference is None else reference, dtype=np.float64)
    distance = distances(
        scale,
        lambda: standard_deviation(known, "the target score"),
        lambda: SortedParts([np.sort(known)]),
    )
    return 1 + c * distance(np.asarray(scores, dtype=np.float64), tau)


def weighing(column: ScoreColumn, tau: float, label: LabelParams) -> Callable[[np.ndarray], np.ndarray]:
    """`weights` at tau in the unit of a column's scores, as a function of scores (N,); raises `TgoError` as it does.

    The scales `mad` and `rank` hold the column in memory, 8 bytes a score.
    """
    if label.c == 0:
        return lambda scores: np.ones(len(scores))
    unit = ScoreUnit("the target score", column.n, column.mean, column.variance * column.n)
    unit.minimum, unit.maximum = column.ordered.minimum, column.ordered.maximum
    distance = distances(label.scale, lambda: unit.deviation, lambda: column.ordered)
    return lambda scores: 1 + label.c * distance(scores, tau)


Distance = Callable[[np.ndarray, float | np.ndarray], np.ndarray]
"""How far scores (N,) are from one tau, or from one each (N,)."""


def distances(scale: Scale, deviation: Callable[[], float], ordered: Callable[[], SortedParts]) -> Distance:
    """The distance in units of `scale`, from the standard deviation or all scores, of which it takes what it needs.

    Raises `TgoError` if the unit is zero.
    """
    if scale == "rank":
        whole = ordered().whole()
        return lambda scores, tau: np.abs(mid_ranks(scores, whole) - mid_ranks(np.atleast_1d(tau), whole))
    unit = {"raw": lambda: 1.0, "std": deviation, "mad": lambda: _mad(ordered())}[scale]()
    return lambda scores, tau: np.abs(scores - tau) / unit


def _mad(known: SortedParts) -> float:
    middle = known.quantiles([0.5])[0]
    unit = MAD_TO_STD * known.mapped(lambda scores: np.abs(scores - middle)).quantiles([0.5])[0]
    if unit == 0:
        raise TgoError(
            f"label.scale is mad, but half of the target scores or more equal {middle:g}, so that their median "
            "absolute deviation is 0: use std, rank or raw."
        )
    return unit


def _require_finite(scores: np.ndarray) -> None:
    bad = int(np.sum(~np.isfinite(scores)))
    if bad:
        raise TgoError(f"{bad} of {len(scores)} scores are NaN or infinite: leave them out before labelling.")


def effective_sample_size(weights: np.ndarray) -> float:
    """(sum w)^2 / sum w^2 (Kish): N for equal weights, 1 when one sample has all of it; 0 for no samples."""
    if not len(weights):
        return 0.0
    relative = np.asarray(weights, dtype=np.float64) / np.max(weights)
    return float(np.sum(relative) ** 2 / np.sum(relative**2))
