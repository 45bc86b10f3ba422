"""Statistics of a score among the samples of one prompt."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def prompt_numbers(prompt_ids: Sequence[str]) -> np.ndarray:
    """(N,) numbers of prompts from 0, in the order of the sorted ids: equal for samples of one prompt."""
    return np.unique(np.asarray(prompt_ids), return_inverse=True)[1]


def prompt_means(prompt_ids: Sequence[str], score: np.ndarray) -> np.ndarray:
    """(N,) mean score of each sample's prompt, in units of the score."""
    prompt = prompt_numbers(prompt_ids)
    return (np.bincount(prompt, weights=score) / np.bincount(prompt))[prompt]


def prompt_quantiles(prompt_ids: Sequence[str], score: np.ndarray) -> np.ndarray:
    """(N,) mid-rank of each score among those of its prompt, in (0, 1): (#{x < s} + #{x = s} / 2) / K.

    K samples of a prompt resolve quantiles to 1/K; equal scores share the middle of their ranks.
    """
    prompt = prompt_numbers(prompt_ids)
    order = np.lexsort((score, prompt))
    ordered_prompt, ordered_score = prompt[order], np.asarray(score)[order]
    prompt_starts = _run_starts(ordered_prompt[1:] != ordered_prompt[:-1])
    new_score = (ordered_prompt[1:] != ordered_prompt[:-1]) | (ordered_score[1:] != ordered_score[:-1])
    starts = _run_starts(new_score)
    ends = len(order) - _run_starts(new_score[::-1])[::-1]
    quantiles = np.empty(len(order))
    quantiles[order] = ((starts + ends) / 2 - prompt_starts) / np.bincount(prompt)[ordered_prompt]
    return quantiles


def _run_starts(changes: np.ndarray) -> np.ndarray:
    """(N,) where the run that a place belongs to starts, from the (N - 1,) places where a new one begins."""
    starts = np.concatenate(([0], np.where(changes, np.arange(1, len(changes) + 1), 0)))
    return np.maximum.accumulate(starts)
