"""Estimates from batches against what they estimate: gradients whose means and noise are known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from fine_tune.noise_levels import table
from fine_tune.noise_levels.statistics import Moments, Sketches, net_signal
from tgo_pipeline.storage.shards import Mark

BINS, WIDTH, BATCHES, UNITS, UPDATE = 3, 60, 12, 4, 20
MEANS = np.random.default_rng(5).normal(size=(BINS, WIDTH)) * np.array([[0.3], [0.4], [0.5]])
NOISE = np.array([9.0, 4.0, 2.0])
"""Standard deviation of a unit's gradient in each coordinate, by bin."""
UNIT = NOISE**2 * WIDTH


def drawn(seed: int, batches: int = BATCHES) -> Sketches:
    generator = np.random.default_rng(seed)
    noise = generator.normal(size=(batches, BINS, WIDTH)) * NOISE[:, None] / np.sqrt(UNITS)
    return Sketches(MEANS + noise, UNITS, UPDATE)


def truth() -> Moments:
    return Moments(np.square(MEANS).sum(1), np.square(MEANS).sum(1) + UNIT / UNITS, UNITS)


def test_moments_are_without_bias() -> None:
    found = [drawn(seed).whole for seed in range(600)]
    for name in ("own", "square"):
        each = np.array([getattr(one, name) for one in found])
        error = each.std(0) / np.sqrt(len(each))
        assert (np.abs(each.mean(0) - getattr(truth(), name)) < 4 * error).all()
    plugged = np.mean([np.square(drawn(seed).values.mean(0)).sum(1) for seed in range(50)], 0)
    assert (plugged > truth().own + 0.8 * UNIT / UNITS / BATCHES).all()  # what they are not


def test_cos2_is_the_square_of_the_mean_over_the_mean_square_of_an_update() -> None:
    noise = np.random.default_rng(1).normal(size=(4000, BINS, UPDATE, WIDTH)) * NOISE[:, None, None]
    square = np.square(MEANS + noise.mean(2)).sum(-1).mean(0)
    np.testing.assert_allclose(truth().cos2(UPDATE), np.square(MEANS).sum(1) / square, rtol=0.02)


def test_the_jackknife_tells_the_spread_of_other_batches() -> None:
    found = [drawn(seed, 24) for seed in range(60)]
    spread = np.array([each.cos2 for each in found]).std(0)
    said = np.array([each.cos2_error for each in found]).mean(0)
    assert (said > 0.7 * spread).all() and (said < 2 * spread).all()  # rather too large where signal is small
    resampled = np.array([each.resampled.std(0) for each in found[:10]]).mean(0)
    assert (resampled > 0.5 * spread).all() and (resampled < 2 * spread).all()


@pytest.mark.parametrize("first", [0, 1, 2])
def test_net_signal_is_that_of_gradients_summed_over_a_training(first: int) -> None:
    """Simulated: every unit of every update draws one of the bins, and each bin's gradients are summed."""
    updates, generator = 40, np.random.default_rng(1)
    counts = generator.multinomial(updates * UPDATE, [1 / (BINS - first)] * (BINS - first), size=4000)
    signal = noise = 0.0
    for place, count in enumerate(counts.T, start=first):
        sums = generator.normal(size=(4000, WIDTH)) * NOISE[place] * np.sqrt(count)[:, None]
        own, other = np.square(count.mean() * MEANS[place]).sum(), np.square(sums).sum(1).mean()
        signal, noise = signal + own / (own + other), noise + other / (own + other)
    found = net_signal(truth().cos2(UPDATE), updates)[first]
    assert found == pytest.approx(signal - noise, abs=0.02)


def test_levels_of_noise_alone_are_left_out_until_a_training_is_long_enough() -> None:
    cos2 = np.array([0.0, 0.004, 0.05, 0.3])
    assert [int(np.argmax(net_signal(cos2, updates))) for updates in (1, 100, 2000)] == [3, 2, 1]
    assert np.argmax(net_signal(np.full(4, 0.2), 1000)) == 0  # where all levels have a signal, all of them
    both = net_signal(np.stack([cos2, cos2[::-1]]), 100)
    np.testing.assert_array_equal(both[0], net_signal(cos2, 100))


def test_a_suggestion_says_how_sure_it_is(tmp_path: Path) -> None:
    generator = np.random.default_rng(2)
    mean = generator.normal(size=WIDTH) / np.sqrt(WIDTH)
    noise = generator.normal(size=(40, BINS, WIDTH)) * np.array([8.0, 0.2, 0.6])[:, None] / np.sqrt(WIDTH)
    path, mark = tmp_path / "levels.parquet", Mark("mark")

    def suggested(signal: list[float]) -> table.Suggestion:
        sketches = Sketches(mean * np.array(signal)[:, None] + noise, UNITS, UNITS)
        found = table.write(path, mark, sketches, [0.0, 0.3, 0.6, 1.0], "tgo")
        assert table.find(path, mark) == found and table.find(path, Mark("other")) is None
        return found.suggest(30)

    clear = suggested([0.0, 1.0, 1.0])
    assert clear.levels == [0.3, 1.0] and clear.clarity > 2
    assert clear.votes[1] > 0.5 and sum(clear.votes) == pytest.approx(1)
    assert clear.net_signal[1] == max(clear.net_signal) > 1.9 and clear.net_error[1] == 0
    assert clear.best[0] <= 0.3 <= clear.best[1]
    rows = [{"low": low, "cos2": 0.0, "cos2_resampled": []} for low in (0.0, 0.3, 0.6)]
    for row, middle, spread in zip(rows, (0.001, 0.11, 0.3), (1e-3, 0.11, 1e-3), strict=True):
        row |= {"cos2": middle, "cos2_resampled": (middle + spread * np.linspace(-1, 1, 101)).tolist()}
    unsure = table.Levels("levels", rows, {}).suggest(15)
    assert np.argmax(unsure.net_signal) == 2 and unsure.low == 0.3  # within one error of the greatest
    assert unsure.net_signal[2] - unsure.net_signal[1] < unsure.net_error[1]
    rows[1]["cos2_resampled"] = [0.11, 0.1101]
    rows[0]["cos2_resampled"], rows[2]["cos2_resampled"] = [0.001] * 2, [0.3] * 2
    assert table.Levels("levels", rows, {}).suggest(15).low == 0.6
    nothing = suggested([0.0, 0.0, 0.0])
    assert not nothing.is_clear and nothing.levels == [0.0, 1.0]
