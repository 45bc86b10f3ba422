"""Strengths of images from choices between them: the maximum a posteriori of the model of Bradley and Terry.

P(i beats j) = sigmoid(s[i] - s[j]) (Biometrika 39, 1952, 324-345); a tie is half a win of each. An image that never
lost would have no finite strength, and images that were never compared, directly or through others, no common scale. So
each also plays `prior` games against an image of strength 0 and wins half of them (the virtual draws of Coulom's
whole-history rating, 2008): the posterior is strictly concave, and its one maximum finite.
"""

from __future__ import annotations

import numpy as np

from tgo_pipeline.errors import TgoError
from tgo_pipeline.feedback.linear import solve

TOLERANCE = 1e-6
"""The largest difference between wins and expected wins, of any image, at which the strengths are taken: far less than
the half game of a tie, the least that feedback can say."""
MOST_STEPS = 100
"""Newton steps after which the strengths are refused as not settled; Newton's method settles in far fewer."""
MOST_INNER_STEPS = 200
"""Steps of conjugate gradients within one Newton step."""


def strengths(
    first: np.ndarray, second: np.ndarray, choice: np.ndarray, images: int, prior: float
) -> np.ndarray:
    """Strength of each image in log-odds, float64 (images,): a difference of 1 is odds of e = 2.7.

    `first`, `second` are codes 0 .. images - 1 (N,), `choice` is 1 (first), 0, or 0.5 (a tie). Newton steps, each by
    conjugate gradients with the diagonal as preconditioner. Raises `TgoError` for a prior that is not above 0.
    """
    if not prior > 0:
        raise TgoError(
            f"shrinkage is {prior:g}: images that always win would be infinitely strong; take it above 0, such as 1."
        )
    posterior = _Posterior(*_grouped(first, second, choice, images), images, prior)
    current = np.zeros(images)
    value, gradient = posterior.value(current), posterior.gradient(current)
    for _ in range(MOST_STEPS):
        if np.abs(gradient).max(initial=0.0) <= TOLERANCE:
            return current
        step = _newton_step(posterior, current, gradient)
        current, value = _ascend(posterior, current, value, step, gradient)
        gradient = posterior.gradient(current)
    raise TgoError(
        f"the strengths did not settle within {MOST_STEPS} steps at shrinkage {prior:g}: take a larger one."
    )


def _grouped(
    first: np.ndarray, second: np.ndarray, choice: np.ndarray, images: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Each pair once with a < b, in order: the images, the games a won (a tie is half), and the games."""
    low, high = np.minimum(first, second), np.maximum(first, second)
    won = np.where(first <= second, choice, 1 - choice)
    keys, places = np.unique(low.astype(np.int64) * images + high, return_inverse=True)
    return keys // images, keys % images, np.bincount(places, won), np.bincount(places).astype(np.float64)


class _Posterior:
    """Log posterior of the strengths, its gradient and its curvature."""

    def __init__(
        self, low: np.ndarray, high: np.ndarray, won: np.ndarray, games: np.ndarray, images: int, prior: float
    ) -> None:
        self.low, self.high, self.won, self.games = low, high, won, games
        self.images, self.prior = images, prior

    def value(self, strength: np.ndarray) -> float:
        gap = strength[self.low] - strength[self.high]
        data = self.won * gap - self.games * np.logaddexp(0, gap)
        virtual = self.prior * (strength / 2 - np.logaddexp(0, strength))
        return float(data.sum() + virtual.sum())

    def gradient(self, strength: np.ndarray) -> np.ndarray:
        """Games won less games that were expected to be won, (images,)."""
        surplus = self.won - self.games * _sigmoid(strength[self.low] - strength[self.high])
        return self._scatter(surplus) + self.prior * (0.5 - _sigmoid(strength))

    def curvature(self, strength: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights of the pairs and of the images in minus the second derivative."""
        chance, alone = _sigmoid(strength[self.low] - strength[self.high]), _sigmoid(strength)
        return self.games * chance * (1 - chance), self.prior * alone * (1 - alone)

    def times(self, weights: tuple[np.ndarray, np.ndarray], vector: np.ndarray) -> np.ndarray:
        """Minus the second derivative times `vector`."""
        pairs, alone = weights
        return self._scatter(pairs * (vector[self.low] - vector[self.high])) + alone * vector

    def diagonal(self, weights: tuple[np.ndarray, np.ndarray]) -> np.ndarray:
        pairs, alone = weights
        return self._sum(self.low, pairs) + self._sum(self.high, pairs) + alone

    def _scatter(self, values: np.ndarray) -> np.ndarray:
        return self._sum(self.low, values) - self._sum(self.high, values)

    def _sum(self, places: np.ndarray, values: np.ndarray) -> np.ndarray:
        return np.bincount(places, values, minlength=self.images)


def _newton_step(posterior: _Posterior, strength: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Solve curvature x step = gradient, the more exactly the smaller the gradient is (Dembo and Steihaug 1983)."""
    weights = posterior.curvature(strength)
    step, _ = solve(  # where it has not settled, still a direction that climbs
        lambda vector: posterior.times(weights, vector),
        posterior.diagonal(weights),
        gradient,
        tolerance=min(0.1, np.sqrt(np.linalg.norm(gradient) / len(gradient))),
        most_steps=MOST_INNER_STEPS,
    )
    return step


def _ascend(
    posterior: _Posterior, strength: np.ndarray, value: float, step: np.ndarray, gradient: np.ndarray
) -> tuple[np.ndarray, float]:
    """The whole step, or the largest half of a half of it that raises the posterior (Armijo's rule)."""
    slope, size = float(gradient @ step), 1.0
    rounding = 1e-12 * abs(value)
    while True:
        there = strength + size * step
        reached = posterior.value(there)
        if reached >= value + 1e-4 * size * slope - rounding or size < 1e-6:  # Nocedal and Wright's c1
            return there, reached
        size /= 2


def _sigmoid(values: np.ndarray) -> np.ndarray:
    return 0.5 * (1 + np.tanh(values / 2))
