"""Intervals over trainings and prompts, against every draw counted one by one, and in simulations."""

import itertools
import math
from collections.abc import Sequence

import numpy as np
import pytest
from scipy import stats

from benchmarks.coverage import WORLDS, covered, gains
from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.statistics.compare import evaluation_table
from tgo_pipeline.evaluation.statistics.intervals import (
    bootstrap_means,
    crossed_t_interval,
    resampled_means,
)
from tgo_pipeline.evaluation.statistics.scores import PairedScores
from tgo_pipeline.params import EvaluateParams

RNG = np.random.default_rng(0)
TRAININGS = np.array(["a", "a", "a", "b", "b", "b", "b"])
PROMPTS = np.array(["x", "y", "z", "x", "y", "z", "z"])
VALUES = np.array([0.3, -1.0, 2.0, 1.5, 0.1, np.nan, -0.7])


def every_draw(values: np.ndarray, prompts: np.ndarray, factors: Sequence[np.ndarray]) -> np.ndarray:
    """The mean of every draw of prompts and of each factor, all of them equally likely: a loop over samples.

    A sample counts once for each time that its prompt is drawn with each time that its names are.
    """
    sides = [prompts, *factors]
    draws = [itertools.product(np.unique(side), repeat=len(np.unique(side))) for side in sides]
    means = []
    for drawn in itertools.product(*draws):
        total = count = 0.0
        for place, value in enumerate(values):
            times = math.prod(names.count(side[place]) for names, side in zip(drawn, sides, strict=True))
            if times and not math.isnan(value):
                total, count = total + times * float(value), count + times
        means.append(total / count if count else math.nan)
    return np.array(means)


@pytest.mark.parametrize("groups", [[TRAININGS], [TRAININGS, np.array(["c", "d", "c", "d", "c", "d", "d"])]])
def test_resamples_are_spread_like_all_draws_counted_one_by_one(groups: list[np.ndarray]) -> None:
    exact = every_draw(VALUES, PROMPTS, groups)
    found, prompts = resampled_means(
        VALUES[:, None], PROMPTS, resamples=60_000, seed=1, trainings=np.stack(groups, axis=1)
    )
    assert prompts.tolist() == [3]
    levels = np.linspace(0.05, 0.95, 19)
    assert np.isnan(found).mean() == pytest.approx(np.isnan(exact).mean(), abs=0.005)
    assert np.nanmean(found) == pytest.approx(np.nanmean(exact), abs=0.01)
    assert np.nanstd(found) == pytest.approx(np.nanstd(exact), abs=0.01)
    kept = np.sort(found[~np.isnan(found)])
    for level in levels:  # the distribution has steps: compare shares, not quantiles
        point = np.nanquantile(exact, level) + 1e-9
        share = np.searchsorted(kept, point) / len(kept)
        assert share == pytest.approx(np.mean(exact[~np.isnan(exact)] <= point), abs=0.012)


def test_one_training_is_the_bootstrap_over_prompts_to_the_bit() -> None:
    values, prompts = RNG.normal(size=(300, 3)), RNG.integers(0, 80, 300)
    values[RNG.random(values.shape) < 0.1] = np.nan
    options = {"resamples": 500, "seed": 3}
    plain, _ = resampled_means(values, prompts, **options)
    one, _ = resampled_means(values, prompts, **options, trainings=np.full(300, "only"))
    assert plain.tobytes() == one.tobytes()
    generator = np.random.default_rng(3)  # the same draws, spelled out
    names, codes = np.unique(prompts, return_inverse=True)
    drawn = generator.integers(len(names), size=(500, len(names)))
    rows = [np.concatenate([np.flatnonzero(codes == number) for number in each]) for each in drawn[:20]]
    np.testing.assert_allclose(plain[:20], [np.nanmean(values[row], axis=0) for row in rows], rtol=1e-12)


def test_resamples_of_trainings_do_not_depend_on_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    values, prompts = RNG.normal(size=(60, 1)), np.tile(np.arange(20), 3)
    options = {"resamples": 300, "seed": 0, "trainings": np.repeat(np.arange(3), 20)}
    whole, _ = resampled_means(values, prompts, **options)
    monkeypatch.setattr("tgo_pipeline.evaluation.statistics.intervals.BLOCK", 500)
    np.testing.assert_allclose(resampled_means(values, prompts, **options)[0], whole, rtol=1e-12)


def test_trainings_of_another_length_are_an_error() -> None:
    with pytest.raises(TgoError, match="3 values came with 2 trainings"):
        resampled_means(np.ones((3, 1)), np.arange(3), resamples=10, seed=0, trainings=np.arange(2))


@pytest.mark.parametrize("seeds", [5, 10])
@pytest.mark.parametrize(("name", "alone"), [("against the base", 0.83), ("two settings, paired", 0.6)])
def test_an_interval_over_prompts_alone_misses_what_seeds_do(name: str, alone: float, seeds: int) -> None:
    """Seeds with a standard deviation of .1. RESULTS.md has the shares of more simulations."""
    each = [covered(gains(WORLDS[name], 0.1, seeds, np.random.default_rng(k)), seed=k) for k in range(2)]
    prompts_alone, both, student = np.mean(each, axis=0)[:, 0]
    assert prompts_alone < alone and 0.86 < both < 0.98 and 0.9 < student < 0.98


def test_the_variance_is_that_of_two_crossed_random_effects() -> None:
    """Against the textbook's sums of squares for one cell of a table, and Welch's test where prompts do not matter."""
    table = RNG.normal(size=(4, 9))
    grand, rows, columns = table.mean(), table.mean(axis=1), table.mean(axis=0)
    square_rows = 9 * sum((each - grand) ** 2 for each in rows) / 3
    square_columns = 4 * sum((each - grand) ** 2 for each in columns) / 8
    rest = sum(
        (table[i, j] - rows[i] - columns[j] + grand) ** 2 for i, j in itertools.product(range(4), range(9))
    )
    squares, freedoms = np.array([square_rows, square_columns, -rest / 24]) / 36, np.array([3, 8, 24])
    variance = max(squares.sum(), squares.max())
    freedom = variance**2 / (squares**2 / freedoms).sum()
    half = stats.t.ppf(0.95, freedom) * math.sqrt(variance)
    low, high = crossed_t_interval([table[..., None]], 0.9)
    assert (low.item(), high.item()) == pytest.approx((grand - half, grand + half))

    sides = [RNG.normal(size=(count, 1, 1)) * np.ones((1, 5, 1)) for count in (3, 6)]
    low, high = crossed_t_interval(sides, 0.95)
    welch = stats.ttest_ind(*(side[:, 0, 0] for side in sides), equal_var=False).confidence_interval(0.95)
    assert (low.item(), high.item()) == pytest.approx((welch.low, welch.high))


def test_students_interval_of_few_or_equal_values() -> None:
    assert np.isnan(crossed_t_interval([np.ones((3, 1, 1))], 0.95)).all()
    assert np.array(crossed_t_interval([np.ones((3, 4, 1))], 0.95)).tolist() == [[1.0], [1.0]]
    alone = RNG.normal(size=(1, 12, 1))  # of one training prompts are left
    found = np.array(crossed_t_interval([alone], 0.95)).ravel()
    assert found == pytest.approx(stats.ttest_1samp(alone.ravel(), 0).confidence_interval(0.95))


def pairs(trainings: np.ndarray | None) -> PairedScores:
    """Three trainings on 20 prompts; they differ more than prompts do."""
    prompts = np.tile([f"p{number}" for number in range(20)], 3)
    base = np.random.default_rng(1).normal(size=(60, 1))
    tuned = (
        base + np.repeat([0.1, 0.9, 1.7], 20)[:, None] + 0.3 * np.random.default_rng(2).normal(size=(60, 1))
    )
    ids = np.array([f"{place}" for place in range(60)])
    return PairedScores(ids, prompts, prompts, np.full(60, "plain"), ("r",), base, tuned, trainings)


def test_a_table_of_several_trainings_has_wider_intervals_and_the_same_numbers() -> None:
    params = EvaluateParams(bootstrap=400)
    plain, one, several = (
        evaluation_table(pairs(trainings), "r", params).to_pylist()[0]
        for trainings in (None, np.full(60, "0"), np.repeat(["0", "1", "2"], 20))
    )
    assert plain == one
    for name in ("difference", "win_rate", "win_tie_rate"):
        assert several[name] == plain[name]
        widths = [row[f"{name}_high"] - row[f"{name}_low"] for row in (plain, several)]
        assert widths[1] > 1.3 * widths[0]


def test_intervals_of_many_trainings_are_fast() -> None:
    values = RNG.normal(size=(10 * 300, 14))
    low, high = bootstrap_means(
        values,
        np.tile(np.arange(300), 10),
        resamples=2000,
        confidence=0.95,
        seed=0,
        trainings=np.repeat(np.arange(10), 300),
    )
    assert ((low < 0.1) & (high > -0.1)).all()
