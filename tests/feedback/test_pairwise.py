"""Rules for choices between two images, against counting by hand."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tgo_pipeline.feedback.pairwise import any_win, tally, win_rate, wins, wins_minus_losses

IMAGES = 5
games = st.lists(
    st.tuples(st.integers(0, IMAGES - 1), st.integers(1, IMAGES - 1), st.sampled_from([0.0, 0.5, 1.0])),
    min_size=1,
)


@given(games)
def test_every_rule_is_what_counting_gives(found: list[tuple[int, int, float]]) -> None:
    first = np.array([one for one, _, _ in found])
    second = (first + np.array([step for _, step, _ in found])) % IMAGES
    choice = np.array([label for _, _, label in found])
    won, lost, tied = np.zeros(IMAGES), np.zeros(IMAGES), np.zeros(IMAGES)
    for one, other, label in zip(first, second, choice, strict=True):
        for image, score in ((one, label), (other, 1 - label)):
            won[image] += score == 1
            lost[image] += score == 0
            tied[image] += score == 0.5
    counts = tally(first, second, choice, IMAGES)
    played = won + lost + tied > 0
    np.testing.assert_array_equal([counts.wins, counts.losses, counts.ties], [won, lost, tied])
    np.testing.assert_array_equal(any_win(counts), won > 0)
    np.testing.assert_array_equal(wins(counts), won)
    np.testing.assert_array_equal(wins_minus_losses(counts), won - lost)
    with np.errstate(invalid="ignore"):
        np.testing.assert_allclose(
            win_rate(counts)[played], ((won + tied / 2) / (won + lost + tied))[played], rtol=1e-15
        )
