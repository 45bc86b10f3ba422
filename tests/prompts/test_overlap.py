"""The similarity join finds exactly what comparing all pairs finds, and stays usable for many prompts."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgo_pipeline.prompts.overlap import near_duplicates, shingles, similarity

TEXTS = st.lists(st.text("ab c.", min_size=1, max_size=14), max_size=12)


@given(TEXTS, TEXTS, st.sampled_from([0.1, 0.3, 0.5, 0.6, 0.7, 0.9, 0.99]))
@settings(max_examples=300, deadline=None)
def test_agrees_with_all_pairs(left: list[str], right: list[str], threshold: float) -> None:
    expected = []
    for i, text in enumerate(left):
        scored = [(similarity(text, other), -j) for j, other in enumerate(right)]
        best = max(scored, default=(0.0, 0))
        if best[0] >= threshold:
            expected.append((i, -best[1], best[0]))
    assert near_duplicates(left, right, threshold) == expected


def test_case_and_punctuation_do_not_count() -> None:
    assert similarity("A red fox, at night!", "a red fox at night") == 1.0
    assert similarity("a red fox", "seven green boats") == 0.0
    assert shingles("!!!") != shingles("???")


def test_jaccard_by_hand() -> None:
    # abcdef: abcde bcdef; abcdeg: abcde bcdeg; one of three in common.
    assert similarity("abcdef", "abcdeg") == pytest.approx(1 / 3)


def test_ten_thousand_prompts_take_seconds() -> None:
    draw = random.Random(0)
    words = ["".join(draw.choices("abcdefghijklmnopqrstuvwxyz", k=draw.randint(2, 9))) for _ in range(5000)]
    weights = [1 / rank for rank in range(1, len(words) + 1)]
    prompts = [" ".join(draw.choices(words, weights, k=12)) for _ in range(10_000)]
    repeated = [text.upper() + "." for text in prompts[:20]]
    started_s = time.process_time()
    matches = near_duplicates(prompts, [*repeated, *prompts[9_000:]], 0.9)
    assert time.process_time() - started_s < 30
    assert [match.left_index for match in matches] == [*range(20), *range(9_000, 10_000)]
