"""Scores that stand rank by rank: every number is that of the same scores prompt by prompt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tgo_pipeline.thresholds import baselines
from tgo_pipeline.thresholds.adequacy.intervals import share, standard_error
from tgo_pipeline.thresholds.adequacy.verdict import heterogeneity
from tgo_pipeline.thresholds.streams import column as columns
from tgo_pipeline.thresholds.streams.column import ScoreColumn, write_block
from tgo_pipeline.thresholds.streams.groups import Groups
from tgo_pipeline.thresholds.streams.tally import PromptTally

PER_PROMPT: dict[str, Callable[[Groups], np.ndarray]] = {
    "means": Groups.means,
    "medians": Groups.medians,
    "tops": Groups.tops,
    "squares": lambda groups: groups.squares(groups.means()),
    "positive": lambda groups: groups.count(groups.values > 0.1),
    "percentiles": lambda groups: baselines.percentiles(groups, 0.3),
    "soft": lambda groups: baselines.soft(groups, 0.7),
    "ess": lambda groups: baselines.soft_ess(groups, 0.7),
    "jackknife": lambda groups: baselines.soft_jackknife(groups, 0.7),
}
PER_SAMPLE: dict[str, Callable[[Groups], np.ndarray]] = {
    "quantiles": baselines.quantiles,
    "new": Groups.is_new,
    "ranks": Groups.ranks,
    "spread": lambda groups: groups.spread(groups.means()),
    "mean of others": lambda groups: baselines.leave_one_out(groups, "mean"),
    "median of others": lambda groups: baselines.leave_one_out(groups, "median"),
    "soft of others": lambda groups: baselines.leave_one_out(groups, "soft", 0.7),
}


def equal(found: np.ndarray, expected: np.ndarray, name: str = "") -> None:
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-14, err_msg=name)


def both_ways(prompts: int, each: int, *, ties: bool) -> tuple[Groups, Groups]:
    scores = np.random.default_rng(each).normal(size=(prompts, each))
    scores = np.sort(np.round(scores, 1) if ties else scores, axis=1)
    sizes = np.full(prompts, each)
    return (
        Groups(scores.ravel(), np.arange(prompts) * each, sizes),
        Groups.by_rank(scores.T.ravel(), sizes),
    )


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("each", [1, 2, 3, 8, 9, 10, 17, 130, 300])
def test_numbers_do_not_depend_on_how_scores_stand(each: int, ties: bool) -> None:
    by_prompt, by_rank = both_ways(7, each, ties=ties)
    for name, measure in PER_PROMPT.items():
        equal(measure(by_rank), measure(by_prompt), name)
    for name, measure in PER_SAMPLE.items():
        found = measure(by_rank).reshape(each, -1).T.ravel()
        equal(found, measure(by_prompt), name)


def test_the_jackknife_without_a_sample_does_not_either() -> None:
    by_prompt, by_rank = both_ways(5, 6, ties=False)
    found, expected = (baselines.leave_one_out_jackknife(groups, 0.7) for groups in (by_rank, by_prompt))
    equal(found.reshape(6, -1).T.ravel(), expected)


@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize("frequent", [1, 3, 1000])
def test_a_column_holds_every_prompt_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type, frequent: int
) -> None:
    """Whichever sizes have a part of their own."""
    monkeypatch.setattr(columns, "EQUAL_PROMPTS", frequent)
    rng, path = np.random.default_rng(3), tmp_path / "0.column"
    given = [rng.normal(size=size).astype(kind) for size in rng.choice([1, 2, 2, 3, 3, 3, 5, 7], 60)]
    for place in range(0, 60, 7):
        given[place][0] = np.nan
    blocks, start = [], 0
    with path.open("wb") as file:
        for part in (given[:40], given[40:]):
            values = np.concatenate(part)
            blocks.append(
                write_block(file.fileno(), start, values, np.array([scores.size for scores in part]))
            )
            start += values.size
    made = ScoreColumn("clip", path, blocks, np.dtype(kind), threads=2)
    prompts = [np.sort(scores[np.isfinite(scores)]) for scores in given]
    prompts = [scores.astype(np.float64) for scores in prompts if scores.size]
    repeated = [scores for scores in prompts if scores.size > 1]
    assert np.concatenate([block.kept for block in blocks]).sum() == len(prompts)
    with made.repeated() as others:
        for each, expected in ((made, prompts), (others, repeated)):
            assert each.sizes.tolist() == [scores.size for scores in expected]
            assert each.means == pytest.approx([scores.mean() for scores in expected], rel=1e-12)
            taken = each.take(
                np.repeat(np.arange(len(expected)), each.sizes),
                np.concatenate(list(map(np.arange, each.sizes))),
            )
            assert np.array_equal(taken, np.concatenate(expected))
            assert np.array_equal(each.ordered.whole(), np.sort(np.concatenate(expected)))
    assert np.array_equal(made.ordered.whole(), np.sort(np.concatenate(prompts)))


def test_a_tally_says_what_its_prompts_say() -> None:
    rng = np.random.default_rng(5)
    sizes = rng.integers(1, 6, 2_000)
    hits = rng.binomial(sizes, rng.beta(2, 3, sizes.size))
    parts = [PromptTally.of(hits[some], sizes[some]) for some in (slice(0, 700), slice(700, None))]
    tally = PromptTally.joined(parts)
    assert tally.sizes.size == len(set(zip(hits.tolist(), sizes.tolist(), strict=True)))
    assert standard_error(*tally) == pytest.approx(standard_error(hits, sizes), rel=1e-12)
    found, expected = share(tally.counts, tally.sizes, 0.95, tally.times), share(hits, sizes, 0.95)
    assert [found.value, found.low, found.high] == pytest.approx(
        [expected.value, expected.low, expected.high], rel=1e-12
    )
    told = heterogeneity(tally.counts, tally.sizes, 0.95, tally.times)
    every = heterogeneity(hits, sizes, 0.95)
    assert (told.prompts, told.size, told.negative) == (every.prompts, every.size, every.negative)
    for one, other in ((told.flips, every.flips), (told.bound, every.bound)):
        assert one is not None and other is not None
        assert [one.value, one.low, one.high] == pytest.approx([other.value, other.low, other.high], rel=1e-9)


def test_prompts_of_many_sizes_are_not_tallied() -> None:
    sizes = np.array([3, 10**6, 500])
    tally = PromptTally.of(np.array([1, 7, 0]), sizes)
    assert (tally.counts.tolist(), tally.sizes.tolist(), tally.times.tolist()) == (
        [1, 7, 0],
        sizes.tolist(),
        [1] * 3,
    )
