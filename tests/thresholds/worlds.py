"""Synthetic worlds of known truth: score = place of the prompt + deviation; share R of the variance is in the place."""

from __future__ import annotations

import math

import numpy as np

from tgo_pipeline.thresholds.streams.groups import Groups


def gaussian(
    ratio: float, prompts: int, each: int, seed: int = 0, total: float = 1.0
) -> tuple[np.ndarray, np.ndarray]:
    """Scores (P, K) of variance `total` and the true means of the prompts (P,)."""
    rng = np.random.default_rng(seed)
    means = math.sqrt(ratio * total) * rng.normal(size=prompts)
    return means[:, None] + math.sqrt((1 - ratio) * total) * rng.normal(size=(prompts, each)), means


def grouped(scores: np.ndarray) -> Groups:
    """Scores (P, K) as groups."""
    return Groups.of(scores.ravel(), np.repeat(np.arange(len(scores)), scores.shape[1]))


def flips(ratio: float) -> float:
    """P(sign(b + e) != sign(e)) for independent normal b and e with share `ratio` of the variance in b."""
    return math.asin(math.sqrt(ratio)) / math.pi
