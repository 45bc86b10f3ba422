"""Strengths against an independent optimum in float64, closed forms of two images, and recovery in simulation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import optimize

from tgo_pipeline.errors import TgoError
from tgo_pipeline.feedback.bradley_terry import strengths

IMAGES = 4
games = st.lists(
    st.tuples(st.integers(0, IMAGES - 1), st.integers(1, IMAGES - 1), st.sampled_from([0.0, 0.5, 1.0])),
    min_size=1,
    max_size=40,
)


def minorised(first: np.ndarray, second: np.ndarray, choice: np.ndarray, prior: float) -> np.ndarray:
    """The optimum by Hunter's MM algorithm (Annals of Statistics 32, 2004) on dense tables of wins, with one more
    player of fixed strength 0 against which every image plays `prior` games and wins half: no derivative in it.
    """
    wins = np.zeros((IMAGES, IMAGES))
    np.add.at(wins, (first, second), choice)
    np.add.at(wins, (second, first), 1 - choice)
    games = wins + wins.T
    worth = np.ones(IMAGES)
    for _ in range(20_000):
        expected = (games / (worth[:, None] + worth)).sum(1) + prior / (worth + 1)
        new = (wins.sum(1) + prior / 2) / expected
        if np.abs(np.log(new / worth)).max() < 1e-13:
            break
        worth = new
    return np.log(worth)


@settings(deadline=None, max_examples=60)
@given(games, st.sampled_from([0.3, 1.0, 4.0]))
def test_they_are_the_maximum_that_another_algorithm_finds(
    found: list[tuple[int, int, float]], prior: float
) -> None:
    first = np.array([one for one, _, _ in found])
    second = (first + np.array([step for _, step, _ in found])) % IMAGES
    choice = np.array([label for _, _, label in found])
    ours = strengths(first, second, choice, IMAGES, prior)
    # ours ends at a gradient of 1e-6, and a strong image's prior curves by 0.02 here: 5e-5 of strength
    np.testing.assert_allclose(ours, minorised(first, second, choice, prior), atol=1e-4)


@pytest.mark.parametrize(("wins", "losses", "prior"), [(3, 1, 1.0), (7, 0, 2.0), (1, 0, 0.01)])
def test_two_images_have_opposite_strengths_that_solve_one_equation(
    wins: int, losses: int, prior: float
) -> None:
    games = wins + losses
    first, second = np.zeros(games, int), np.ones(games, int)
    strong, weak = strengths(first, second, np.r_[np.ones(wins), np.zeros(losses)], 2, prior)
    assert strong == pytest.approx(-weak, abs=1e-9)
    surplus = wins - games / (1 + np.exp(-2 * strong)) + prior * (0.5 - 1 / (1 + np.exp(-strong)))
    assert surplus == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("choice", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("prior", [0.1, 1.0, 5.0])
def test_one_game_of_two_images_is_the_optimum_of_a_plain_minimiser(choice: float, prior: float) -> None:
    def loss(strength: np.ndarray) -> float:
        gap = strength[0] - strength[1]
        data = choice * gap - np.logaddexp(0, gap)
        return -float(data + np.sum(prior * (strength / 2 - np.logaddexp(0, strength))))

    found = strengths(np.array([0]), np.array([1]), np.array([choice]), 2, prior)
    expected = optimize.minimize(loss, np.zeros(2), method="BFGS", tol=1e-10).x
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("images", [0, 1, 3])
def test_images_without_a_game_have_strength_0(images: int) -> None:
    nothing = np.array([], int)
    assert strengths(nothing, nothing, np.array([]), images, 1.0).tolist() == [0.0] * images


def test_undefeated_images_and_images_never_compared_are_finite() -> None:
    first, second = np.array([0, 0, 2, 4]), np.array([1, 1, 3, 5])
    found = strengths(first, second, np.array([1.0, 1, 1, 0.5]), 6, 2.0)
    assert np.isfinite(found).all()
    assert found[0] > found[2] > found[4] == found[5] == 0
    np.testing.assert_allclose(found[::2], -found[1::2], atol=1e-9)


def test_true_strengths_are_recovered_from_many_choices() -> None:
    rng = np.random.default_rng(0)
    truth = rng.normal(0, 1, 60)
    first, step = rng.integers(0, 60, 20_000), rng.integers(1, 60, 20_000)
    second = (first + step) % 60
    chance = 1 / (1 + np.exp(truth[second] - truth[first]))
    found = strengths(first, second, (rng.random(20_000) < chance).astype(float), 60, 1.0)
    assert np.abs(found - found.mean() - (truth - truth.mean())).max() < 0.3
    assert np.corrcoef(found, truth)[0, 1] > 0.99


def test_no_prior_is_refused() -> None:
    with pytest.raises(TgoError, match="shrinkage is 0: images that always win would be infinitely strong"):
        strengths(np.array([0]), np.array([1]), np.array([1.0]), 2, 0.0)
