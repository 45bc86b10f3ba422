"""One score per image from several raters' ratings of it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from tgo_pipeline.errors import TgoError
from tgo_pipeline.feedback.linear import solve

TOLERANCE = 1e-10
"""Residual of the normal equations, relative to their right side, at which conjugate gradients end: far below what
ratings in whole stars can tell apart, and still within double precision."""
MOST_STEPS = 1000
"""Steps of conjugate gradients after which the effects are refused as not settled."""


def mean(values: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Mean of each image's ratings; `images` are codes 0 .. I - 1 of the ratings (N,); float64 (I,)."""
    return np.bincount(images, values) / np.bincount(images)


def median(values: np.ndarray, images: np.ndarray) -> np.ndarray:
    """Median of each image's ratings (the middle between both for an even number), float64 (I,)."""
    ordered = values[np.lexsort((values, images))]
    counts = np.bincount(images)
    starts = np.cumsum(counts) - counts
    return (ordered[starts + (counts - 1) // 2] + ordered[starts + counts // 2]) / 2


@dataclass(frozen=True)
class Effects:
    """Ratings taken apart: y = mean + rater + image + noise, in rating units."""

    mean: float
    raters: np.ndarray
    images: np.ndarray

    @property
    def scores(self) -> np.ndarray:
        """What an image would be rated by a rater without bias, (I,)."""
        return self.mean + self.images


def effects(values: np.ndarray, images: np.ndarray, raters: np.ndarray | None, shrinkage: float) -> Effects:
    """Best linear unbiased prediction in the two-way random effects model y = m + a[rater] + b[image] + e.

    Minimises sum (y - m - a - b)^2 + shrinkage (sum a^2 + sum b^2) over m, a and b: Henderson's mixed-model equations
    (Biometrics 31, 1975, 423-447) with the variance ratios noise : rater = noise : image = `shrinkage`. So an effect
    counts as if `shrinkage` further ratings lay at the mean: with the others known, b[i] = sum (y - m - a) / (n[i] +
    shrinkage). `raters` None means that a = 0. Raises `TgoError` for a shrinkage that is not above 0.
    """
    if not shrinkage > 0:
        raise TgoError(
            f"shrinkage is {shrinkage:g}: effects are shrunk by more than 0 ratings; else take the mean."
        )
    if raters is None:
        raters, active = np.zeros(len(values), dtype=np.intp), 0.0
    else:
        active = 1.0
    system = _Normal(values, images, raters, shrinkage, active)
    solved, settled = solve(
        system.times, system.diagonal, system.right, tolerance=TOLERANCE, most_steps=MOST_STEPS
    )
    if not settled:
        raise TgoError(
            f"the effects of raters and images did not settle within {MOST_STEPS} steps at shrinkage {shrinkage:g}: "
            "take a larger one."
        )
    middle, biases = float(solved[0]), solved[1:] * active
    return Effects(middle, biases, system.image_effects(values - middle - biases[raters]))


class _Normal:
    """The normal equations for (m, a) with the images eliminated: images may be millions, raters rarely are."""

    def __init__(
        self, values: np.ndarray, images: np.ndarray, raters: np.ndarray, shrinkage: float, active: float
    ) -> None:
        self.images, self.raters = images, raters
        self.shrinkage, self.active = shrinkage, active
        counts = np.bincount(images)
        self._divisors = counts + shrinkage
        self.right = self._project(values)
        self.diagonal = np.concatenate(
            ([float(np.sum(counts * shrinkage / self._divisors))], np.bincount(raters) + shrinkage)
        )

    def image_effects(self, rest: np.ndarray) -> np.ndarray:
        """b given what the other effects leave of each rating, (I,)."""
        return np.bincount(self.images, rest) / self._divisors

    def _project(self, rest: np.ndarray) -> np.ndarray:
        left = rest - self.image_effects(rest)[self.images]
        return np.concatenate(([left.sum()], self.active * np.bincount(self.raters, left)))

    def times(self, unknowns: np.ndarray) -> np.ndarray:
        """The matrix, symmetric and positive definite, times (m, a)."""
        result = self._project(unknowns[0] + self.active * unknowns[1:][self.raters])
        result[1:] += self.shrinkage * unknowns[1:]
        return result
