"""Pairs of one prompt: what each is, how many there are, and why there are none."""

from __future__ import annotations

import logging
from math import comb

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fine_tune.data.pairs import build_pairs, find_pairs
from tests.fine_tune.objectives.evaluate import labels
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params.objectives import PairParams

samples = st.lists(st.tuples(st.sampled_from("abcd"), st.integers(-4, 4)), min_size=1, max_size=24)
margins = st.sampled_from([0.0, 1.0, 2.5])


def by_prompt(rows) -> dict[str, list[int]]:
    groups: dict[str, list[int]] = {}
    for prompt, score in rows:
        groups.setdefault(prompt, []).append(score)
    return groups


def made_of(rows):
    return labels([score / 2 for _, score in rows], [prompt for prompt, _ in rows])


def apart(scores: list[int], margin: float) -> int:
    """Pairs of unequal scores at least `margin` apart, when scores are halves."""
    return sum(a > b and (a - b) / 2 >= margin for a in scores for b in scores)


@settings(max_examples=150, deadline=None)
@given(samples, margins, st.sampled_from(["best_worst", "all"]))
def test_every_pair_is_of_one_prompt_and_ordered_by_the_margin(rows, margin: float, select) -> None:
    given = made_of(rows)
    assume(any(apart(scores, margin) for scores in by_prompt(rows).values()))
    pairs = find_pairs(given, PairParams(select=select, margin=margin))
    assert len({tuple(pair) for pair in pairs.rows.tolist()}) == len(pairs)
    for winner, loser in pairs.rows:
        assert given.prompt_ids[winner] == given.prompt_ids[loser]
        assert given.score[winner] > given.score[loser]
        assert given.score[winner] - given.score[loser] >= margin
    prompts = [given.prompt_ids[winner] for winner in pairs.rows[:, 0]]
    assert prompts == sorted(prompts)


@settings(max_examples=100, deadline=None)
@given(samples, margins)
def test_all_pairs_are_as_many_as_scores_that_differ_by_the_margin(rows, margin: float) -> None:
    groups = by_prompt(rows)
    expected = sum(apart(scores, margin) for scores in groups.values())
    assume(expected)
    pairs = find_pairs(made_of(rows), PairParams(select="all", margin=margin))
    assert len(pairs) == expected
    if margin == 0:  # all pairs but the tied ones
        assert expected == sum(
            comb(len(s), 2) - sum(comb(s.count(each), 2) for each in set(s)) for s in groups.values()
        )
    without = sum(apart(scores, margin) == 0 for scores in groups.values())
    single = sum(len(scores) == 1 for scores in groups.values())
    assert (pairs.prompts, pairs.single, pairs.close) == (len(groups), single, without - single)


@settings(max_examples=100, deadline=None)
@given(samples, margins)
def test_best_and_worst_are_one_pair_of_each_prompt_whose_spread_reaches_the_margin(
    rows, margin: float
) -> None:
    given = made_of(rows)
    groups = {prompt: scores for prompt, scores in by_prompt(rows).items() if apart(scores, margin)}
    assume(groups)
    pairs = find_pairs(given, PairParams(select="best_worst", margin=margin))
    found = {given.prompt_ids[w]: (given.score[w], given.score[x]) for w, x in pairs.rows}
    assert len(found) == len(pairs)
    assert found == {prompt: (max(scores) / 2, min(scores) / 2) for prompt, scores in groups.items()}


def test_pairs_are_in_a_fixed_order() -> None:
    given = labels([3, 1, 3, 2, 5, 4], ["b", "b", "b", "b", "a", "a"])
    assert build_pairs(given, PairParams(select="best_worst")).tolist() == [[4, 5], [0, 1]]
    everything = build_pairs(given, PairParams(select="all")).tolist()
    assert everything == [[4, 5], [0, 3], [0, 1], [2, 3], [2, 1], [3, 1]]


def test_the_report_counts_prompts_without_a_pair(caplog: pytest.LogCaptureFixture) -> None:
    given = labels([1, 2, 1, 1, 9], ["a", "a", "b", "b", "c"])
    with caplog.at_level(logging.INFO, "tgo"):
        rows = build_pairs(given, PairParams())
    assert rows.dtype == np.intp and rows.tolist() == [[1, 0]]
    assert caplog.messages == [
        "1 pairs of 1 prompts; without a pair: 1 with one image and 1 with scores that are equal or closer than the "
        "margin"
    ]


def test_prompts_of_one_image_are_why_there_is_no_pair() -> None:
    with pytest.raises(TgoError, match=r"each has one image.*raise generate\.images_per_prompt"):
        build_pairs(labels([1, 2, 3]), PairParams())


def test_ties_and_margins_are_why_there_is_no_pair() -> None:
    given = labels([1, 1, 2, 2.5, 3], ["a", "a", "b", "b", "c"])
    with pytest.raises(TgoError, match=r"1 have one image and 2 have scores.*margin = 1\. Lower the margin"):
        build_pairs(given, PairParams(margin=1.0))
