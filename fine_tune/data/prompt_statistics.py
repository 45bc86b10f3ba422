"""Statistics of a score among the samples of one prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from fine_tune.data.texts import Texts
from tgo_pipeline.thresholds.baselines import quantiles
from tgo_pipeline.thresholds.streams.groups import Groups


def prompt_numbers(prompt_ids: Sequence[str]) -> np.ndarray:
    """(N,) numbers of prompts from 0, in the order of the sorted ids: equal for samples of one prompt."""
    return (prompt_ids if isinstance(prompt_ids, Texts) else Texts(prompt_ids)).numbers


def prompt_means(prompt_ids: Sequence[str], score: np.ndarray) -> np.ndarray:
    """(N,) mean score of each sample's prompt, in units of the score."""
    prompt = prompt_numbers(prompt_ids)
    return (np.bincount(prompt, weights=score) / np.bincount(prompt))[prompt]


def prompt_quantiles(prompt_ids: Sequence[str], score: np.ndarray) -> np.ndarray:
    """(N,) mid-rank of each score among those of its prompt, in (0, 1): (#{x < s} + #{x = s} / 2) / K.

    K samples of a prompt resolve quantiles to 1/K; equal scores share the middle of their ranks.
    """
    groups, order = Groups.ordered(np.asarray(score, np.float64), prompt_numbers(prompt_ids))
    found = np.empty(len(order))
    found[order] = quantiles(groups)
    return found
