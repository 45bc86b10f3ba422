"""What the study of objectives measured, as numbers and as markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import polars as pl

from benchmarks.objectives.plan import LEVELS, RATE, STRENGTH, TEMPERATURE, Plan, Trial
from benchmarks.objectives.units import BASE, METHODS, Result, Unit
from benchmarks.results import of_training, table
from tgo_pipeline.evaluation.statistics.compare import evaluation_table
from tgo_pipeline.evaluation.statistics.scores import ALL, pairs_from_samples
from tgo_pipeline.params import EvaluateParams
from tgo_pipeline.rendering.table import decimals, measured

Row = dict[str, Any]  # of an evaluation table
ORACLE = "oracle"
TRAININGS = {BASE: 0, "cpgd": 2}
"""How many trainings of the stated steps a method takes, 1 where nothing is said."""
CALLS = {"pgd": 2, "pgd-contrast": 2, "cpgd": 3}
"""How many times the base's network calls a sampling step takes, 1 where nothing is said."""


def named(unit: Unit) -> str:
    """How a table calls a unit's method."""
    scale = unit.settings.get("generate.guidance_scale")
    return f"base, guidance {scale:g}" if unit.method == BASE else unit.method


def by_method(results: Iterable[Result]) -> dict[str, dict[int, Result]]:
    """Results by name and seed; those that failed are left out."""
    found: dict[str, dict[int, Result]] = {}
    for result in results:
        if result.rows:
            found.setdefault(named(result.unit), {})[result.unit.seed] = result
    return found


def samples_of(results: Mapping[int, Result]) -> pl.DataFrame:
    """The paired samples of all seeds, each a training."""
    return pl.concat(
        of_training(pl.read_parquet(result.samples), seed) for seed, result in sorted(results.items())
    )


def pooled(samples: pl.DataFrame, target: str, params: EvaluateParams) -> list[Row]:
    """The evaluation table of all seeds together; intervals resample seeds and prompts."""
    return evaluation_table(pairs_from_samples(samples), target, params).to_pylist()


def against(ours: pl.DataFrame, theirs: pl.DataFrame) -> pl.DataFrame:
    """Samples that pair two methods: `theirs` as base, `ours` as tuned, where both have them."""
    keys = ["sample_id", "reward"]
    other = theirs.select(*keys, base="tuned")
    return ours.drop("base").join(other, on=keys, maintain_order="left")


def find(rows: Sequence[Row], reward: str, test_set: str = ALL) -> Row:
    """One row of an evaluation table."""
    return next(row for row in rows if (row["reward"], row["test_set"]) == (reward, test_set))


def standardised(row: Row) -> dict[str, float]:
    """The difference and its interval in standard deviations of the base."""
    names = {"effect": "difference", "low": "difference_low", "high": "difference_high"}
    return {name: row[column] / row["base_std"] for name, column in names.items()} | {"wins": row["win_rate"]}


def summarise(plan: Plan, units: Iterable[Unit], params: EvaluateParams) -> dict[str, Any]:
    """For each method pooled rows, seeds, training metrics; `incomplete` names those without every seed of the plan."""
    found = by_method(plan.study.results(units))
    seeds = sorted({seed for results in found.values() for seed in results})
    of_all = {seed for seed in seeds if seed in plan.seeds}  # leaders have more
    incomplete = sorted(name for name, results in found.items() if not of_all <= results.keys())
    methods = {}
    for name, results in found.items():
        rows = pooled(samples_of(results), plan.target, params)
        methods[name] = {
            "settings": dict(next(iter(results.values())).unit.settings),
            "pooled": [
                row for row in rows if row["test_set"] == ALL or row["reward"] in (plan.target, ORACLE)
            ],
            "seeds": {
                str(seed): {
                    reward: standardised(find(result.rows, reward)) for reward in (plan.target, ORACLE)
                }
                for seed, result in sorted(results.items())
            },
            "metrics": _means([result.metrics for result in results.values()]),
            "seconds": _means([result.seconds for result in results.values()]),
        }
    return {"seeds": seeds, "methods": methods, "incomplete": incomplete}


def _means(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    names = set.intersection(*(set(values) for values in each)) if each else set()
    return {name: sum(values[name] for values in each) / len(each) for name in sorted(names)}


def contrast(
    ours: Mapping[int, Result], theirs: Mapping[int, Result], target: str, params: EvaluateParams
) -> dict[str, dict[str, float]] | None:
    """One method against another on the seeds of both, paired sample by sample, in the other's deviations.

    Target and oracle, their intervals over seeds and prompts; None if they share no seed.
    """
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return None
    mine, other = (samples_of({seed: each[seed] for seed in shared}) for each in (ours, theirs))
    rows = pooled(against(mine, other), target, params)
    return {reward: standardised(find(rows, reward)) for reward in (target, ORACLE)}


def contrast_table(
    found: Mapping[str, Mapping[int, Result]], reference: str, target: str, params: EvaluateParams
) -> str:
    """Every method against the base, and against `reference`: effects with intervals, the best on the target first."""
    header = [
        "method",
        "seeds",
        f"{target} to base",
        "oracle to base",
        f"{target} to {reference}",
        "oracle",
        "wins",
    ]
    lines = []
    for name, results in found.items():
        rows = pooled(samples_of(results), target, params)
        cells = [effect_cell(standardised(find(rows, reward))) for reward in (target, ORACLE)]
        between = None if name == reference else contrast(results, found[reference], target, params)
        if between:
            cells += [effect_cell(between[reward]) for reward in (target, ORACLE)]
            cells.append(f"{between[target]['wins']:.0%}")
        effect = find(rows, target)["effect"]
        lines.append((effect, [name, str(len(results)), *cells, *[""] * (len(header) - 2 - len(cells))]))
    return table(header, [line for _, line in sorted(lines, key=lambda pair: -pair[0])])


def effect_cell(values: Mapping[str, float]) -> str:
    """An effect with its interval."""
    return f"{values['effect']:+.2f} [{values['low']:+.2f}, {values['high']:+.2f}]"


def main_table(summary: Mapping[str, Any], target: str) -> str:
    """Methods by their effect on the target: target and oracle with intervals, win rates, every seed's effects."""
    shown = (target, ORACLE)
    heads = [head for reward in shown for head in (f"{reward}: effect", "win rate", "seed by seed")]
    lines = []
    for name in ordered(summary, target):
        entry = summary["methods"][name]
        cells = []
        for reward in shown:
            row = find(entry["pooled"], reward)
            seeds = " ".join(f"{values[reward]['effect']:+.2f}" for values in entry["seeds"].values())
            cells += [effect_cell(standardised(row)), f"{row['win_rate']:.0%}", seeds]
        lines.append([name, *cells, cost(name)])
    return table(["method", *heads, "cost"], lines)


def ordered(summary: Mapping[str, Any], target: str) -> list[str]:
    """Methods, the greatest effect on the target first; the base at other guidance scales last."""
    methods = summary["methods"]
    effects = {name: find(entry["pooled"], target)["effect"] for name, entry in methods.items()}
    return sorted(methods, key=lambda name: (name.startswith(BASE), -effects[name]))


def cost(name: str) -> str:
    """Trainings and network calls of a method."""
    method = name.partition(",")[0]
    if method.partition("+")[0] not in METHODS:
        return "–"
    trainings, calls = TRAININGS.get(method, 1), CALLS.get(method, 1)
    return f"{trainings} training{'s' * (trainings != 1)}, {calls}x sampling"


def reward_table(summary: Mapping[str, Any], target: str) -> str:
    """Every reward of every method: difference to the base in reward units with its interval."""
    names = ordered(summary, target)
    rewards = [row["reward"] for row in summary["methods"][names[0]]["pooled"] if row["test_set"] == ALL]
    lines = []
    for name in names:
        rows = [find(summary["methods"][name]["pooled"], reward) for reward in rewards]
        lines.append(
            [name, *(measured(row, "difference", f"+.{decimals(row['base_std'])}f") for row in rows)]
        )
    return table(["method", *rewards], lines)


def tuning_table(plan: Plan) -> str:
    """Every trial of every method, the chosen one of each in bold."""
    best = [trial for method in plan.methods if (trial := plan.best(method)) is not None]
    return trial_table([trial for method in plan.methods for trial in plan.trials(method)], plan.target, best)


def trial_table(trials: Sequence[Trial], target: str, marked: Sequence[Trial] = ()) -> str:
    """Settings of trials, their mean effects on target and oracle, and those of each seed."""
    header = ["method", "learning rate", "T", "levels", "other", target, "by seed", ORACLE, "by seed"]
    lines = []
    for trial in trials:
        mark = (
            "**"
            if any(trial.settings == each.settings for each in marked if each.method == trial.method)
            else ""
        )
        lines.append([f"{mark}{trial.method}{mark}", *_settings(trial.settings), *_outcome(trial, target)])
    return table(header, lines)


def _settings(settings: Mapping[str, Any]) -> list[str]:
    shown = {RATE, TEMPERATURE, STRENGTH, LEVELS}
    other = [f"strength {settings[STRENGTH]:g}"] if STRENGTH in settings else []
    other += [f"{key.rpartition('.')[2]} {value}" for key, value in settings.items() if key not in shown]
    levels = f"≥ {settings[LEVELS][0]:g}" if LEVELS in settings else "all"
    return [
        *(f"{settings[key]:g}" if key in settings else "" for key in (RATE, TEMPERATURE)),
        levels,
        ", ".join(other),
    ]


def _outcome(trial: Trial, target: str) -> list[str]:
    cells = []
    for reward in (target, ORACLE):
        known = all(not result.rows or result.has(reward) for result in trial.results)
        each = [
            f"{result.value(reward):+.2f}" if result.rows else "failed" for result in trial.results if known
        ]
        cells += [f"{trial.value(reward):+.2f}" if known else "", " ".join(each)]
    return cells


def training_table(summary: Mapping[str, Any], target: str) -> str:
    """How each training ended: accuracy, log-ratios and errors of both sides (means of the last updates)."""
    columns = {
        "accuracy": "accuracy",
        "log_ratio_positive": "log-ratio +",
        "log_ratio_negative": "log-ratio −",
        "positive_error_ratio": "error +",
        "negative_error_ratio": "error −",
        "gradient_norm": "gradient",
    }
    lines = [
        [name, *(_number(summary["methods"][name]["metrics"].get(column)) for column in columns)]
        for name in ordered(summary, target)
        if summary["methods"][name]["metrics"]
    ]
    return table(["method", *columns.values()], lines)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
