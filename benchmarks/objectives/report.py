"""The study's section of RESULTS.md and its numbers, from whatever units have run."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.objectives.plan import SAMPLES, UNRESTRICTED, Plan
from benchmarks.objectives.run import LOW
from benchmarks.objectives.tables import (
    by_method,
    contrast_table,
    main_table,
    reward_table,
    summarise,
    training_table,
    trial_table,
)
from benchmarks.objectives.units import Result, Study, Unit
from benchmarks.results import SEEDS_RESAMPLED
from tgo_pipeline.params import EvaluateParams, parse
from tgo_pipeline.params.fine_tune import AUTO

MAIN, AS_CHOSEN, MEASURED_RANGE = "main", "tgo+as chosen", f"tgo+{AUTO}"


def collect(study: Study, plans: Sequence[Plan], units: Any, where: Mapping[str, str]) -> dict[str, Any]:
    """All numbers of the main tables; `units(plan, phase)` gives the units of a phase."""
    params = parse(EvaluateParams, study.raw["evaluate"])
    families = {plan.family: summarise(plan, units(plan, MAIN), params) for plan in plans}
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": dict(where),
        "target": study.raw["target"]["reward"],
        "conditions": {
            name: study.raw[name] for name in ("prompts", "generate", "label", "threshold", "fine_tune")
        },
        "families": {family: summary for family, summary in families.items() if summary["methods"]},
    }


def markdown(study: Study, plans: Sequence[Plan], units: Any, numbers: Mapping[str, Any]) -> str:
    """The section of RESULTS.md."""
    parts = ["## Objectives on the small world", _conditions(numbers)]
    for plan in plans:
        if plan.family in numbers["families"]:
            parts += _family(study, plan, units, numbers["families"][plan.family], numbers["target"])
    return "\n\n".join(parts)


def _family(study: Study, plan: Plan, units: Any, summary: Mapping[str, Any], target: str) -> list[str]:
    params = parse(EvaluateParams, study.raw["evaluate"])
    seeds = ", ".join(map(str, summary["seeds"]))
    missing = f" Not run on every seed: {', '.join(summary['incomplete'])}." if summary["incomplete"] else ""
    parts = [
        f"### {plan.family}: test captions, seeds {seeds} together",
        main_table(summary, target) + missing,
        "Difference to the base in reward units:",
        reward_table(summary, target),
        "How the trainings ended (means of the last 10 updates):",
        training_table(summary, target),
    ]
    main: list[Unit] = list(units(plan, MAIN))
    found = by_method(study.results(main))
    for reference in (name for name in ("tgo", "threshold_contrast") if name in found):
        parts += [
            f"Each method against {reference}, paired:",
            contrast_table(found, reference, target, params),
        ]
    ranges = by_method(study.results(units(plan, "levels")))
    if MEASURED_RANGE in ranges:
        parts += [_levels(ranges), contrast_table(ranges, MEASURED_RANGE, target, params)]
    larger = by_method(study.results(units(plan, "budget")))
    if UNRESTRICTED in larger:
        parts += [f"With {SAMPLES} samples an update in place of {SAMPLES // 2}, test captions:"]
        parts += [contrast_table(larger, UNRESTRICTED, target, params)]
    varied = by_method(study.results(units(plan, "ablate")))
    if AS_CHOSEN in varied:
        parts += ["Ablations of TGO on the restricted levels, test captions:"]
        parts += [contrast_table(varied, AS_CHOSEN, target, params)]
    if plan.searched():
        parts += ["Ideas on top of chosen settings, validation captions:"]
        parts += [trial_table(plan.searched(), target)]
    return parts


def _levels(ranges: Mapping[str, Mapping[int, Result]]) -> str:
    """What the table of ranges compares, and what was measured."""
    lows = [f"{result.metrics[LOW]:g}" for _, result in sorted(ranges[MEASURED_RANGE].items())]
    return (
        "TGO on ranges of noise levels by grid, on the range that `noise_levels: auto` measures and trains on "
        f"(it begins at {', '.join(lows)}, seed by seed), and on all levels by importance, test captions:"
    )


def _conditions(numbers: Mapping[str, Any]) -> str:
    here, conditions = numbers["machine"], numbers["conditions"]
    generate, tuning = conditions["generate"], conditions["fine_tune"]
    return (
        f"{numbers['date']}, {here['processor']}, accelerator {here['accelerator']}, torch {here['torch']}, commit "
        f"{here['commit']}. {conditions['prompts']['limit']} training captions with "
        f"{generate['images_per_prompt']} images each, drawn again for every seed; {tuning['steps']} updates of "
        f"{tuning['batch_size']} samples (half as many pairs), cosine schedule; target {numbers['target']}, guidance "
        f"{generate['guidance_scale']} for sampling, training data and evaluation, {generate['steps']} steps. "
        "One image for each test caption and seed, compared with the base's from the same seed.\n\n"
        "Effect: mean difference to the base in its standard deviations, with 95 % bootstrap intervals. "
        f"{SEEDS_RESAMPLED} Win rate: strict wins over pairs. "
        "Learning rate, stiffness and the range of noise levels were chosen for each method by the target on the "
        "validation captions (two other seeds), with equally many trials for each; the oracle chose nothing. The "
        "trials are in docs/LOG.md."
    )
