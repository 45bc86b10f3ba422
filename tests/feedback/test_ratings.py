"""Aggregates of ratings against sums, a dense least-squares solution and a simulation with biased raters."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tgo_pipeline.errors import TgoError
from tgo_pipeline.feedback import ratings
from tgo_pipeline.feedback.ratings import effects, mean, median

rows = st.lists(
    st.tuples(st.floats(-5, 5, allow_subnormal=False), st.integers(0, 4), st.integers(0, 3)),
    min_size=1,
    max_size=30,
)


def split(found: list[tuple[float, int, int]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Values, and codes without gaps of images and raters."""
    values, images, raters = (np.array(column) for column in zip(*found, strict=True))
    return values, np.unique(images, return_inverse=True)[1], np.unique(raters, return_inverse=True)[1]


def least_squares(
    values: np.ndarray, images: np.ndarray, raters: np.ndarray, shrinkage: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """m, a and b by a dense least-squares solution with one more row, sqrt(shrinkage) x effect = 0, per effect."""
    of_raters, of_images = np.eye(raters.max() + 1)[raters], np.eye(images.max() + 1)[images]
    design = np.hstack([np.ones((len(values), 1)), of_raters, of_images])
    effects_alone = np.eye(design.shape[1])[1:] * np.sqrt(shrinkage)
    solved = np.linalg.lstsq(
        np.vstack([design, effects_alone]), np.concatenate([values, np.zeros(len(effects_alone))]), rcond=None
    )[0]
    return solved[0], solved[1 : 1 + of_raters.shape[1]], solved[1 + of_raters.shape[1] :]


@given(rows)
def test_mean_and_median_are_those_of_each_image(found: list[tuple[float, int, int]]) -> None:
    values, images, _ = split(found)
    groups = [values[images == image] for image in range(images.max() + 1)]
    np.testing.assert_allclose(mean(values, images), [group.mean() for group in groups], atol=1e-12)
    np.testing.assert_allclose(median(values, images), [np.median(group) for group in groups], atol=1e-12)


@settings(deadline=None)
@given(rows, st.floats(0.05, 20))
def test_shrunk_effects_solve_the_mixed_model_equations(
    found: list[tuple[float, int, int]], shrinkage: float
) -> None:
    values, images, raters = split(found)
    middle, of_raters, of_images = least_squares(values, images, raters, shrinkage)
    ours = effects(values, images, raters, shrinkage)
    assert ours.mean == pytest.approx(middle, abs=1e-7)
    np.testing.assert_allclose(ours.raters, of_raters, atol=1e-7)
    np.testing.assert_allclose(ours.images, of_images, atol=1e-7)
    np.testing.assert_allclose(ours.scores, middle + of_images, atol=1e-7)


def test_without_raters_it_is_the_closed_form_of_shrinkage_to_the_mean() -> None:
    values, images, shrinkage = np.array([5.0, 5, 4, 1, 3, 3]), np.array([0, 0, 0, 1, 2, 2]), 2.0
    counts, means = np.array([3, 1, 2]), np.array([14 / 3, 1, 3])
    shares = counts / (
        counts + shrinkage
    )  # b = share x (mean of the image - m); m weighs means by their precision
    middle = (shares * means).sum() / shares.sum()
    found = effects(values, images, None, shrinkage)
    assert found.mean == pytest.approx(middle)
    np.testing.assert_allclose(found.scores, middle + shares * (means - middle), atol=1e-9)


@pytest.mark.parametrize("raters", [None, np.array([0])])
def test_one_rating_is_its_images_score(raters: np.ndarray | None) -> None:
    found = effects(np.array([4.0]), np.array([0]), raters, 2.0)
    assert found.mean == pytest.approx(4)
    assert [*found.images, *found.raters] == pytest.approx([0, 0], abs=1e-12)
    assert mean(np.array([4.0]), np.array([0])) == median(np.array([4.0]), np.array([0])) == [4]


@pytest.mark.parametrize("value", [0.0, 0.7])
def test_equal_ratings_leave_no_effect(value: float) -> None:
    found = effects(np.full(6, value), np.array([0, 0, 1, 1, 2, 2]), np.array([0, 1, 0, 1, 0, 1]), 1.0)
    np.testing.assert_allclose(found.scores, value, atol=1e-9)
    np.testing.assert_allclose(found.raters, 0, atol=1e-9)


def test_a_system_that_does_not_settle_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratings, "MOST_STEPS", 1)
    values, images, raters = np.array([1.0, 5, 2, 4]), np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2])
    with pytest.raises(TgoError, match=r"did not settle within 1 steps at shrinkage 0\.01"):
        effects(values, images, raters, 0.01)


def test_one_image_s_many_raters_move_it_further_from_the_mean_than_one_rater_does() -> None:
    values = np.array([5.0] * 8 + [5.0] + [3.0, 3, 3, 2, 4])
    images = np.array([0] * 8 + [1] + [2, 3, 4, 5, 6])
    scores = effects(values, images, None, 2.0).scores
    assert 5 > scores[0] > scores[1] > scores[2]


@pytest.mark.parametrize("seed", range(3))
def test_it_beats_the_plain_mean_when_raters_are_biased(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truth, bias = rng.normal(0, 1, 300), rng.normal(0, 1, 20)
    images = np.repeat(np.arange(300), 3)
    raters = rng.integers(0, 20, len(images))
    values = 3 + truth[images] + bias[raters] + rng.normal(0, 0.7, len(images))
    found = effects(values, images, raters, 0.5)
    plain = mean(values, images)
    assert np.corrcoef(found.scores, truth)[0, 1] > np.corrcoef(plain, truth)[0, 1] + 0.05
    assert np.mean((found.images - truth) ** 2) < 0.5 * np.mean((plain - plain.mean() - truth) ** 2)
    assert np.corrcoef(found.raters, bias)[0, 1] > 0.9


def test_no_shrinkage_is_refused() -> None:
    with pytest.raises(TgoError, match="shrinkage is 0: effects are shrunk by more than 0 ratings"):
        effects(np.array([1.0]), np.array([0]), None, 0.0)
