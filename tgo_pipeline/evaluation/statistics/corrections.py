"""p-values of many comparisons, corrected for their number."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tgo_pipeline.errors import TgoError

Floats = NDArray[np.float64]
Correction = Literal["holm", "bh", "none"]


def adjust(p_values: NDArray, correction: Correction) -> Floats:
    """Adjusted p-values (N,) of one family; NaN (no comparison) stays NaN and does not count.

    Raises `TgoError` for values that are not probabilities.
    """
    values = np.asarray(p_values, dtype=np.float64)
    known = ~np.isnan(values)
    if ((values[known] < 0) | (values[known] > 1)).any():
        raise TgoError("a p-value is outside [0, 1]: there is nothing to correct.")
    adjusted = np.full(len(values), np.nan)
    adjusted[known] = _METHODS[correction](values[known])
    return adjusted


def holm(values: Floats) -> Floats:
    """Holm 1979: controls the chance of any false finding, whatever the dependence of the tests."""
    order = np.argsort(values)
    steps = values[order] * np.arange(len(values), 0, -1)
    return _in_place(order, np.minimum(np.maximum.accumulate(steps), 1.0))


def benjamini_hochberg(values: Floats) -> Floats:
    """Benjamini and Hochberg 1995: controls the expected share of false findings, for positively dependent tests."""
    order = np.argsort(values)
    steps = values[order] * len(values) / np.arange(1, len(values) + 1)
    return _in_place(order, np.minimum(np.minimum.accumulate(steps[::-1])[::-1], 1.0))


def _in_place(order: NDArray[np.intp], ordered: Floats) -> Floats:
    values = np.empty_like(ordered)
    values[order] = ordered
    return values


_METHODS = {"holm": holm, "bh": benjamini_hochberg, "none": np.copy}
