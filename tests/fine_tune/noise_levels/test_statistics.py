"""Estimates from batches against what they estimate: gradients whose means and noise are known."""

from __future__ import annotations

import numpy as np
import pytest

from fine_tune.noise_levels.statistics import Moments, Sketches
from tgo_pipeline.params import FineTuneParams

BINS, WIDTH, BATCHES, UNITS, UPDATE = 3, 60, 12, 4, 20
MEANS = np.random.default_rng(5).normal(size=(BINS, WIDTH)) * np.array([[0.3], [0.4], [0.5]])
NOISE = np.array([9.0, 4.0, 2.0])
"""Standard deviation of a unit's gradient in each coordinate, by bin."""
UNIT = NOISE**2 * WIDTH


def drawn(seed: int, batches: int = BATCHES) -> Sketches:
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=(batches, BINS, WIDTH)) * NOISE[:, None] / np.sqrt(UNITS)
    return Sketches(MEANS + noise, UNITS, UPDATE, averaged=19.0)


def truth() -> Moments:
    return Moments(MEANS @ MEANS.T, np.square(MEANS).sum(1) + UNIT / UNITS, UNITS)


def test_moments_are_without_bias() -> None:
    found = [drawn(seed).whole for seed in range(600)]
    for name in ("inner", "square"):
        each = np.array([getattr(one, name) for one in found])
        error = each.std(0) / np.sqrt(len(each))
        assert (np.abs(each.mean(0) - getattr(truth(), name)) < 4 * error).all()
    plugged = np.mean([np.square(drawn(seed).values.mean(0)).sum(1) for seed in range(50)], 0)
    assert (plugged > truth().inner.diagonal() + 0.8 * UNIT / UNITS / BATCHES).all()  # what they are not


@pytest.mark.parametrize("first", [0, 1, 2])
def test_an_update_of_mixed_levels_has_the_mean_square_that_sampling_gives(first: int) -> None:
    generator = np.random.default_rng(1)
    bins = generator.integers(first, BINS, size=(4000, UPDATE))
    noise = generator.normal(size=(4000, UPDATE, WIDTH)) * NOISE[bins][..., None]
    square = np.square((MEANS[bins] + noise).mean(1)).sum(1)
    expected = truth().mean_square(slice(first, None), UPDATE)
    assert expected == pytest.approx(square.mean(), abs=4 * square.std() / np.sqrt(len(square)))


def test_the_aim_is_the_expected_cosine_with_the_mean_of_all_levels_but_for_its_length() -> None:
    whole = MEANS.mean(0)
    for first, aim in enumerate(truth().aims(UPDATE)):
        mean = MEANS[first:].mean(0)
        square = truth().mean_square(slice(first, None), UPDATE)
        assert aim == pytest.approx(mean @ whole / np.sqrt(square))
    assert np.argmax(truth().aims(1e9)) == 0  # without noise nothing is better than all levels


def test_the_jackknife_tells_the_spread_of_other_batches() -> None:
    found = [drawn(seed, 24) for seed in range(60)]
    spread = np.array([each.cos2 for each in found]).std(0)
    said = np.array([each.cos2_error for each in found]).mean(0)
    assert (said > 0.7 * spread).all() and (said < 2 * spread).all()  # rather too large where signal is small


def test_levels_of_noise_alone_are_left_out() -> None:
    generator = np.random.default_rng(2)
    mean = generator.normal(size=WIDTH) / np.sqrt(WIDTH)
    scale = np.array([8.0, 0.2, 0.6])
    noise = generator.normal(size=(40, BINS, WIDTH)) * scale[:, None] / np.sqrt(WIDTH)
    values = mean * np.array([[0.0], [1.0], [1.0]]) + noise
    found = Sketches(values, UNITS, UNITS)
    assert found.best == 1 and found.clarity > 2
    assert found.votes[1] > 0.5 and found.votes.sum() == pytest.approx(1)


def test_what_the_optimiser_averages() -> None:
    values = drawn(0).values
    assert Sketches.of(values, 4, FineTuneParams()).averaged == pytest.approx(19)
    assert Sketches.of(values, 4, FineTuneParams(optimizer="adafactor")).averaged == 1
    generator = np.random.default_rng(3)
    average, noise = 0.0, generator.normal(size=40_000)
    followed = []
    for each in noise:
        average = 0.9 * average + 0.1 * each
        followed.append(average)
    assert 1 / np.var(followed[100:]) == pytest.approx(19, rel=0.1)
