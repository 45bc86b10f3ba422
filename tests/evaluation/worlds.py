"""Scores of several models on a few test sets, drawn at random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from tgo_pipeline.evaluation.statistics.scores import ModelScores

MODELS = ("base", "tuned", "other")
REWARDS = ("target", "held", "oracle")
SETS = {"plain": 12, "styled": 8}
"""Prompts of each test set; those of `styled` have a category each, and some a challenge."""


def scores(
    gains: Mapping[str, Sequence[float]] | None = None,
    *,
    models: Sequence[str] = MODELS,
    rewards: Sequence[str] = REWARDS,
    images: int = 3,
    noise: float = 0.5,
    missing: float = 0.0,
    digits: int | None = None,
    seed: int = 0,
    scale: int = 1,
) -> ModelScores:
    """Standard normal scores of the first model; others differ by their gain per reward and by noise.

    `missing` is the share of values that are NaN, `digits` rounds all values so that some tie; there are
    `scale` times as many prompts.
    """
    rng = np.random.default_rng(seed)
    prompts = [f"{name}-{number}" for name, count in SETS.items() for number in range(scale * count)]
    ids = np.repeat(prompts, images)
    base = rng.normal(size=(len(ids), len(rewards)))
    values = []
    for place, model in enumerate(models):
        gain = np.array((gains or {}).get(model, [0.0] * len(rewards)))
        values.append(base + gain + noise * rng.normal(size=base.shape) * (place > 0))
    found = np.stack(values)
    if digits is not None:
        found = found.round(digits)
    found[rng.random(found.shape) < missing] = np.nan
    order = rng.permutation(len(ids))  # images of a prompt need not be neighbours
    ids, found = ids[order], found[:, order]
    numbers = [int(name.split("-")[1]) for name in ids]
    styled = [name.startswith("styled") for name in ids]
    category = [("anime", "photo")[n % 2] if s else None for n, s in zip(numbers, styled, strict=True)]
    challenge = ["Counting" if s and n < 3 else None for n, s in zip(numbers, styled, strict=True)]
    return ModelScores(
        sample_ids=np.array([f"{name}-{place:04d}" for place, name in enumerate(ids)]),
        prompt_ids=ids,
        prompts=ids,
        test_sets=np.array([name.split("-")[0] for name in ids]),
        groupings={"category": np.array(category, object), "challenge": np.array(challenge, object)},
        models=tuple(models),
        rewards=tuple(rewards),
        values=found,
    )
