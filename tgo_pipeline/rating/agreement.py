"""How far raters agree: Krippendorff's alpha, for any number of raters and with gaps.

alpha = 1 - observed / expected disagreement (Krippendorff, Content Analysis, 4th edition, 2019, chapter 12; Computing
Krippendorff's Alpha-Reliability, 2011): 1 is agreement, 0 what chance gives, below 0 systematic disagreement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

Metric = Literal["nominal", "ordinal"]


def alpha(units: Sequence[Sequence[float]], metric: Metric) -> float | None:
    """Krippendorff's alpha of the values that each unit was given; None where it is not defined.

    Units with fewer than two values count for nothing. It is not defined without any such unit, or if all values are
    the same.
    """
    paired = [list(unit) for unit in units if len(unit) > 1]
    values = np.unique([value for unit in paired for value in unit])
    if len(values) < 2:
        return None
    coincidences = np.zeros((len(values), len(values)))
    for unit in paired:
        counts = np.bincount(np.searchsorted(values, unit), minlength=len(values)).astype(float)
        coincidences += (np.outer(counts, counts) - np.diag(counts)) / (len(unit) - 1)
    totals = coincidences.sum(axis=0)
    squared = _squared_differences(totals, metric)
    expected = (np.outer(totals, totals) * squared).sum() / (totals.sum() - 1)
    return float(1 - (coincidences * squared).sum() / expected)


def _squared_differences(totals: np.ndarray, metric: Metric) -> np.ndarray:
    """How far apart two values are, squared, (V, V); `totals` is how often each value was given."""
    if metric == "nominal":
        return 1 - np.eye(len(totals))
    ranks = np.cumsum(totals) - totals / 2  # the values between two, and half of each end
    return (ranks[:, None] - ranks[None, :]) ** 2
