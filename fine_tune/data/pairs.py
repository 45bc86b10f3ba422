"""Pairs of one prompt, the better-scored image first, for objectives that compare two images."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from fine_tune.data.prompt_statistics import prompt_numbers
from tgo_pipeline.errors import TgoError

if TYPE_CHECKING:
    from fine_tune.data.labels import Labels
    from tgo_pipeline.params.objectives import PairParams

log = logging.getLogger("tgo")


@dataclass(frozen=True)
class Pairs:
    """Rows of the labels that winners and losers are, and how many prompts gave none."""

    rows: np.ndarray
    """(P, 2) winner and loser, prompt by prompt in the order of the ids; within one, from the greatest winner on."""
    prompts: int
    single: int
    """Prompts with one image."""
    close: int
    """Prompts whose images are tied or closer than the margin."""

    def __len__(self) -> int:
        return len(self.rows)

    def __str__(self) -> str:
        text = f"{len(self)} pairs of {self.prompts - self.single - self.close} prompts"
        reasons = (
            (self.single, "with one image"),
            (self.close, "with scores that are equal or closer than the margin"),
        )
        without = " and ".join(f"{count} {reason}" for count, reason in reasons if count)
        return f"{text}; without a pair: {without}" if without else text


def build_pairs(labels: Labels, params: PairParams) -> np.ndarray:
    """(P, 2) rows of `labels`, winner and loser; logs how many, and how many prompts gave none. See `find_pairs`."""
    pairs = find_pairs(labels, params)
    log.info("%s", pairs)
    return pairs.rows


def find_pairs(labels: Labels, params: PairParams) -> Pairs:
    """Pair the samples of each prompt: its best with its worst, or all that differ by the margin.

    The winner's score is above the loser's by at least `margin` score units; equal scores are never paired. Of
    several best (or worst) samples the first is taken. Raises `TgoError` if no prompt gives a pair.
    """
    choose = {"best_worst": _best_and_worst, "all": _all}[params.select]
    groups = _rows_by_prompt(labels)
    found = [choose(rows, labels.score[rows], params.margin) for rows in groups]
    single = sum(len(rows) == 1 for rows in groups)
    without = sum(len(pairs) == 0 for pairs in found)
    pairs = Pairs(np.concatenate([np.empty((0, 2), np.intp), *found]), len(groups), single, without - single)
    if len(pairs) == 0:
        raise TgoError(_no_pair(pairs, labels, params))
    return pairs


def _rows_by_prompt(labels: Labels) -> list[np.ndarray]:
    prompt = prompt_numbers(labels.prompt_ids)
    order = np.argsort(prompt, kind="stable")
    return [rows for rows in np.split(order, np.cumsum(np.bincount(prompt))[:-1]) if len(rows)]


def _best_and_worst(rows: np.ndarray, score: np.ndarray, margin: float) -> np.ndarray:
    best, worst = int(score.argmax()), int(score.argmin())
    keep = _is_apart(score[best] - score[worst], margin)
    return np.array([[rows[best], rows[worst]]] if keep else [], np.intp).reshape(-1, 2)


def _all(rows: np.ndarray, score: np.ndarray, margin: float) -> np.ndarray:
    order = np.argsort(-score, kind="stable")
    descending = score[order]
    winner, loser = np.nonzero(_is_apart(descending[:, None] - descending[None, :], margin))
    return np.stack([rows[order[winner]], rows[order[loser]]], axis=1)


def _is_apart(difference: np.ndarray, margin: float) -> np.ndarray:
    return (difference > 0) & (difference >= margin)


def _no_pair(pairs: Pairs, labels: Labels, params: PairParams) -> str:
    start = f"none of the {pairs.prompts} prompts of {len(labels)} labelled samples gives a pair: "
    if pairs.single == pairs.prompts:
        return start + (
            "each has one image. This objective compares two images of one prompt: raise generate.images_per_prompt, "
            "or choose an objective that needs no pairs (tgo, kto, bco, sft, csft)."
        )
    reason = f"{pairs.single} have one image and {pairs.close} have scores that are equal or closer than "
    return start + (
        f"{reason}fine_tune.pairs.margin = {params.margin:g}. Lower the margin (it is in units of the score), raise "
        "generate.images_per_prompt, or split on a reward that tells the images apart."
    )
