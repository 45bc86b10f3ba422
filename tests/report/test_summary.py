from __future__ import annotations

from dataclasses import replace

import pytest

from tests.report.workspace import parameters
from tgo_pipeline.report import summary
from tgo_pipeline.report.collect import EvaluationRow

PARAMS = parameters()


def row(reward: str, low: float | None, high: float | None, test_set: str = "all") -> EvaluationRow:
    middle = 0.0 if low is None or high is None else (low + high) / 2
    return EvaluationRow(
        test_set=test_set,
        reward=reward,
        n=192,
        n_prompts=96,
        n_excluded=0,
        base_mean=1.0,
        tuned_mean=1.0 + middle,
        base_median=1.0,
        tuned_median=1.0 + middle,
        base_std=0.5,
        difference=middle,
        difference_low=low,
        difference_high=high,
        effect=2 * middle,
        wins=100,
        ties=6,
        losses=86,
        win_rate=100 / 192,
        win_rate_low=0.45,
        win_rate_high=0.59,
        win_tie_rate=103 / 192,
        is_target=reward == "mean_z",
    )


UP, DOWN, UNCLEAR = (0.1, 0.3), (-0.3, -0.1), (-0.1, 0.2)


@pytest.mark.parametrize(
    ("target", "oracle", "said", "unsaid"),
    [
        (UP, UP, "TGO raised the target and, with it, the held-out oracle.", "exploited"),
        (UP, UNCLEAR, "The held-out oracle shows no clear change.", "exploited"),
        (UP, DOWN, "The reward may have been exploited", ", with it,"),
        (UNCLEAR, UP, "too little to tell it from chance. The held-out oracle rose.", "raised"),
        (DOWN, DOWN, "TGO made the target worse. The held-out oracle fell.", "raised"),
        (UP, None, "no held-out reward was evaluated", ", with it,"),
        ((None, None), None, "too little to tell it from chance", "raised"),
    ],
)
def test_the_headline_says_no_more_than_the_intervals(target, oracle, said: str, unsaid: str) -> None:
    rows = [row("mean_z", *target), *([row("oracle", *oracle)] if oracle else [])]
    line = summary.headline(summary.findings(PARAMS, rows), "tgo")
    assert said in line
    assert unsaid not in line


def test_an_interval_that_touches_zero_shows_nothing() -> None:
    assert summary.direction(row("clip", 0.0, 0.2), 0.95) == "unclear"
    assert summary.direction(row("clip", -0.2, 0.0), 0.95) == "unclear"


def test_too_few_prompts_show_nothing_whatever_the_interval() -> None:
    clear = row("clip", *UP)
    assert summary.direction(clear, 0.95) == "up"
    assert summary.direction(replace(clear, n_prompts=5), 0.95) == "unclear"


def test_roles_tell_the_target_from_what_no_earlier_stage_saw() -> None:
    rows = [row(name, *UP) for name in ("clip", "mean_z", "oracle")]
    assert summary.roles(PARAMS, rows) == {"clip": "other", "mean_z": "target", "oracle": "held out"}
    also_scored = parameters(score={"rewards": {"clip": "demo", "oracle": "demo"}})
    assert summary.roles(also_scored, rows)["oracle"] == "other"


def test_sentences_hold_the_numbers_and_count_the_test_sets() -> None:
    rows = [row("mean_z", *UP)]
    rows += [row("mean_z", *ends, name) for ends, name in ((UP, "a"), (UNCLEAR, "b"), (DOWN, "c"))]
    found = summary.findings(PARAMS, rows)[0]
    text = " ".join(found.sentences)
    assert "+0.40 standard deviations" in text
    assert "+0.20 to +0.60" in text
    assert "52.1\u202f% of the pairs (45.0\u202f% to 59.0\u202f%)" in text
    assert "3.1\u202f% are ties" in text
    assert "1 of 3 test sets show it above zero and 1 below" in text


def test_the_test_sets_together_come_first() -> None:
    rows = [row("mean_z", *UP, "b"), row("mean_z", *UP), row("mean_z", *UP, "a")]
    assert list(summary.by_set(rows)) == ["all", "b", "a"]
