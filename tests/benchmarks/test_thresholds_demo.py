"""What the comparison of thresholds counts, against loops, and what its section says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from benchmarks.objectives.units import WEIGHTS
from benchmarks.thresholds.demo_plan import GLOBAL, REESTIMATED, RULES, WEIGHTINGS, rules, unit, units
from benchmarks.thresholds.thresholds_demo_tables import (
    RESAMPLES,
    Draws,
    Ratio,
    Samples,
    figure,
    label_rows,
    markdown,
    measures,
)

RNG = np.random.default_rng(0)
PROMPTS, SEEDS, K = 12, 2, 4
PROMPT = np.tile(np.repeat(np.arange(PROMPTS), K), SEEDS)
SEED = np.repeat(np.arange(SEEDS), PROMPTS * K)
SET = np.repeat(np.arange(PROMPTS * SEEDS), K)
ORACLE = RNG.integers(0, 4, PROMPT.size) / 3
LABELS = {GLOBAL: RNG.integers(0, 2, PROMPT.size), "other": RNG.integers(0, 2, PROMPT.size)}
SAMPLES = Samples(SEED, PROMPT, SET, ORACLE, np.median(ORACLE) <= ORACLE, LABELS)
EVERY = Draws(np.ones((1, SEEDS)), np.ones((1, PROMPTS)))


def test_shares_and_pairs_are_those_of_a_loop() -> None:
    found = {name: float(ratio.of(EVERY)[0]) for name, ratio in measures(SAMPLES, "other").items()}
    label = LABELS["other"]
    right = pairs = agree = apart = 0.0
    for number in range(PROMPTS * SEEDS):
        rows = np.flatnonzero(number == SET)
        for i, j in itertools.product(rows, rows):
            if label[i] > label[j]:
                pairs += 1
                right += 1.0 if ORACLE[i] > ORACLE[j] else 0.5 if ORACLE[i] == ORACLE[j] else 0.0
        for i in rows:
            advantage = ORACLE[i] - ORACLE[rows].mean()
            if abs(advantage) > 1e-9:
                apart += 1
                agree += (label[i] == 1) == (advantage > 0)
    assert found["pairs"] == pytest.approx(right / pairs)
    assert found["in_prompt"] == pytest.approx(agree / apart)
    assert found["positive"] == pytest.approx(label.mean())
    assert found["flipped"] == pytest.approx((label != LABELS[GLOBAL]).mean())
    assert found["overall"] == pytest.approx(((label == 1) == (np.median(ORACLE) <= ORACLE)).mean())


def test_intervals_resample_seeds_and_prompts() -> None:
    rows = label_rows(SAMPLES)["other"]
    assert rows["positive"]["low"] < rows["positive"]["value"] < rows["positive"]["high"]
    cells = LABELS["other"].reshape(SEEDS, PROMPTS, K).mean(axis=2)
    drawn = [
        cells[np.ix_(RNG.integers(SEEDS, size=SEEDS), RNG.integers(PROMPTS, size=PROMPTS))].mean()
        for _ in range(10 * RESAMPLES)
    ]
    assert rows["positive"]["low"] == pytest.approx(np.quantile(drawn, 0.025), abs=0.03)
    assert label_rows(SAMPLES)[GLOBAL]["flipped"]["high"] == 0
    assert label_rows(SAMPLES)[GLOBAL]["pairs"]["difference_value"] == 0


def test_a_ratio_is_of_sums_not_of_ratios() -> None:
    ratio = Ratio(np.array([[1.0, 0.0], [2.0, 0.0]]), np.array([[1.0, 3.0], [2.0, 2.0]]))
    draws = Draws(
        np.array([[1.0, 0.0], [1.0, 1.0], [0.0, 2.0]]), np.array([[1.0, 1.0], [1.0, 1.0], [2.0, 0.0]])
    )
    assert ratio.of(draws).tolist() == [0.25, 3 / 8, 1.0]


def test_every_rule_differs_in_nothing_but_the_labels() -> None:
    for weighting in WEIGHTINGS:
        settings = {rule: dict(unit(weighting, rule, 0).settings) for rule in rules(weighting)}
        for rule, own in settings.items():
            more = {key for key in own if key not in settings[GLOBAL]}
            assert all(key.startswith(("threshold.", "fine_tune.reestimate.")) for key in more), rule
            assert {key: own[key] for key in settings[GLOBAL]} == settings[GLOBAL]
        assert settings[GLOBAL].get("label.c") == 0 or settings[GLOBAL][WEIGHTS] == GLOBAL
    assert len(list(units([0, 1]))) == 2 * (2 * len(RULES) + 1)


def effects(value: float) -> dict[str, dict[str, float]]:
    return {
        name: {"effect": value, "low": value - 0.1, "high": value + 0.1, "wins": 0.6}
        for name in ("mean_z", "oracle")
    }


def test_the_section_has_a_line_for_every_rule_and_the_figure_a_point() -> None:
    row = {"base": effects(0.5), "global": effects(-0.2), "seeds": {"0": {"mean_z": 0.5, "oracle": 0.1}}}
    names = {weighting: rules(weighting) for weighting in WEIGHTINGS}
    summary = {
        "date": "2026-01-01",
        "machine": {"processor": "p", "torch": "2", "commit": "c"},
        "seeds": [0, 1],
        "prompts": PROMPTS,
        "target": "mean_z",
        "rules": rules(next(iter(WEIGHTINGS))),
        "labels": label_rows(SAMPLES),
        "rewards": {weighting: dict.fromkeys(each, row) for weighting, each in names.items()},
    }
    text = markdown(summary)
    assert text.count(f"| {REESTIMATED} |") == 1
    assert (
        text.count("| prompt median | +0.50 [+0.40, +0.60] | +0.50 [+0.40, +0.60] | -0.20 [-0.30, -0.10]")
        == 2
    )
    assert text.count(f"| {GLOBAL} | +0.50 [+0.40, +0.60] | +0.50 [+0.40, +0.60] | – | – | – | – | – |") == 2
    assert text.count("| 60 % | +0.00 | +0.00 |") == 2 * (len(RULES) - 1) + 1
    assert "2 seeds" in text
    assert len(figure(summary).to_dict()["vconcat"]) == 2
