"""What `thresholds_demo` trains: which rules, at which weights, with which seeds, and where a result of it is found."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from benchmarks.objectives.units import TEST, WEIGHTS, Result, Study, Unit

FAMILY = "demo"
SEEDS = (0, 1, 2, 3, 4)
GLOBAL = "global"
RULES: dict[str, dict[str, Any]] = {
    GLOBAL: {},
    "global, p 0.75": {"threshold.percentile": 0.75},
    "prompt mean": {"threshold.baseline": "prompt_mean"},
    "prompt median": {"threshold.baseline": "prompt_median"},
    "prompt soft": {"threshold.baseline": "prompt_soft", "threshold.beta": 0.5},
    "prompt quantile": {"threshold.baseline": "prompt_quantile", "threshold.beta": 0.3},
}
"""What labels a sample. With four images a prompt the quantile rule takes the best one, so that a quarter is positive:
the global rule at percentile 0.75 has as many, and differs from it in the prompts alone."""
REESTIMATED = "global, every epoch"
REESTIMATE = {"fine_tune.reestimate.prompts": 64, "fine_tune.reestimate.images_per_prompt": 2}
WEIGHTINGS: dict[str, dict[str, Any]] = {
    "no weights": {"label.c": 0.0, "fine_tune.learning_rate": 2e-4, "fine_tune.temperature": 0.01},
    "weights of the global rule": {
        "fine_tune.learning_rate": 3e-4,
        "fine_tune.temperature": 0.003,
        WEIGHTS: GLOBAL,
    },
}
"""What the study of objectives chose for TGO without and with weights, at the global tau, on validation captions."""


def rules(weighting: str) -> dict[str, dict[str, Any]]:
    """The rules compared at a weighting. A tau of its own each epoch would bring weights of its own."""
    return RULES | ({REESTIMATED: REESTIMATE} if "label.c" in WEIGHTINGS[weighting] else {})


def unit(weighting: str, rule: str, seed: int) -> Unit:
    """A training and its evaluation on the test captions."""
    return Unit(FAMILY, f"tgo+{rule}", seed, TEST, WEIGHTINGS[weighting] | rules(weighting)[rule])


def units(seeds: Sequence[int]) -> Iterator[Unit]:
    """All units, seed by seed: a run that ends early has whole seeds."""
    for seed in seeds:
        for weighting in WEIGHTINGS:
            yield from (unit(weighting, rule, seed) for rule in rules(weighting))


def found(study: Study, weighting: str, seeds: Sequence[int]) -> dict[str, dict[int, Result]]:
    """The results of a weighting by rule and seed."""
    results = {
        rule: {seed: result for seed in seeds if (result := study.result(unit(weighting, rule, seed)))}
        for rule in rules(weighting)
    }
    return {rule: by_seed for rule, by_seed in results.items() if by_seed}
