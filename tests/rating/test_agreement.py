"""Krippendorff's alpha against his own worked example and against its definition by pairs of values."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from tgo_pipeline.rating.agreement import Metric, alpha

GAP = "."
EXAMPLE = ("1233214 12...", "123322412 5.3", ".33323422 51.", "123324412 51.")
"""Krippendorff, Computing Krippendorff's Alpha-Reliability (2011), C: four observers, twelve units, gaps as dots."""


def example() -> list[list[float]]:
    rows = [row.replace(" ", "") for row in EXAMPLE]
    return [[float(row[unit]) for row in rows if row[unit] != GAP] for unit in range(12)]


@pytest.mark.parametrize(("metric", "published"), [("nominal", 0.743), ("ordinal", 0.815)])
def test_the_published_example(metric: Metric, published: float) -> None:
    assert alpha(example(), metric) == pytest.approx(published, abs=0.0005)


def by_definition(units: list[list[float]], metric: Metric) -> float:
    """1 - D_o / D_e, each a mean over ordered pairs of values, in plain loops."""
    units = [unit for unit in units if len(unit) > 1]
    everything = [value for unit in units for value in unit]

    def squared(a: float, b: float) -> float:
        if metric == "nominal":
            return float(a != b)
        low, high = min(a, b), max(a, b)
        between = sum(low <= value <= high for value in everything)
        ends = (everything.count(low) + everything.count(high)) / 2
        return (between - ends) ** 2 if a != b else 0.0

    within = sum(
        squared(a, b) / (len(unit) - 1) for unit in units for a, b in itertools.permutations(unit, 2)
    )
    across = sum(squared(a, b) for a, b in itertools.permutations(everything, 2)) / (len(everything) - 1)
    return 1 - within / across


@pytest.mark.parametrize("metric", ["nominal", "ordinal"])
@pytest.mark.parametrize("seed", range(4))
def test_it_is_what_its_definition_says(metric: Metric, seed: int) -> None:
    chance = np.random.default_rng(seed)
    units = [list(chance.integers(1, 6, size=chance.integers(0, 5)).astype(float)) for _ in range(30)]
    assert alpha(units, metric) == pytest.approx(by_definition(units, metric), rel=1e-12)


def test_agreement_is_one_chance_is_zero_and_some_have_none() -> None:
    chance = np.random.default_rng(0)
    assert alpha([[v, v] for v in (1, 2, 5)], "ordinal") == pytest.approx(1)
    assert alpha(chance.integers(1, 6, (4000, 2)).tolist(), "nominal") == pytest.approx(0, abs=0.03)
    assert alpha([[1.0], [2.0]], "nominal") is None
    assert alpha([[3.0, 3.0], [3.0, 3.0]], "nominal") is None
