"""What `demo_alignment` measured, as markdown."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.results import SEEDS_RESAMPLED, table
from tgo_pipeline.evaluation.statistics.scores import ALL
from tgo_pipeline.rendering.table import decimals, measured

Rows = list[dict[str, Any]]  # of an evaluation table


def markdown(summary: Mapping[str, Any], overrides: Sequence[str], title: str) -> str:
    """The section of RESULTS.md."""
    confidence = summary["params"]["evaluate"]["confidence"]
    parts = [
        f"## {title}",
        _conditions(summary, overrides),
        f"### Against the base model, all test sets together [{confidence:.0%} intervals]",
        _seed_table(summary),
        "### Every reward, seeds pooled",
        _reward_table(summary["pooled"]),
        "### Every test set, seeds pooled",
        _set_table(summary),
    ]
    if summary["between"]:
        parts += ["### Between methods, seeds pooled", _reward_table(summary["between"])]
    parts += ["### Seconds per stage, mean of the first method's runs", _seconds(summary["seconds"])]
    return "\n\n".join(parts)


def _conditions(summary: Mapping[str, Any], overrides: Sequence[str]) -> str:
    here, tuning = summary["machine"], summary["params"]["fine_tune"]
    settings = ", ".join(
        f"{key} {tuning[key]}"
        for key in ("steps", "batch_size", "learning_rate", "temperature", "schedule", "method")
    )
    label, threshold = summary["params"]["label"], summary["params"]["threshold"]
    changed = f" Overrides: {', '.join(f'`{item}`' for item in overrides)}." if overrides else ""
    return (
        f"{summary['date']}, {here['processor']}, accelerator {here['accelerator']}, torch {here['torch']}, commit "
        f"{here['commit']}. Target {summary['target']}, percentile {threshold['percentile']}, c {label['c']} "
        f"({label['scale']}); {settings}.{changed}\n\n"
        "Difference: mean of tuned minus base on the same prompt and seed, in reward units, with a bootstrap. "
        f"{SEEDS_RESAMPLED} Effect: the difference in standard deviations of the base model. Win rate: strict wins "
        "over all pairs, with the same bootstrap; of one seed with a Wilson interval on the effective number of pairs."
    )


def _seed_table(summary: Mapping[str, Any]) -> str:
    header = ["method", "seed", "pairs", *(head for reward in summary["shown"] for head in _heads(reward))]
    lines = []
    for method, by_seed in summary["seeds"].items():
        pooled = {"pooled": summary["pooled"][method]} if len(by_seed) > 1 else {}
        for seed, rows in {**by_seed, **pooled}.items():
            chosen = [_find(rows, ALL, reward) for reward in summary["shown"]]
            lines.append(
                [method, seed, str(chosen[0]["n"]), *(cell for row in chosen for cell in _cells(row))]
            )
    return table(header, lines)


def _reward_table(columns: Mapping[str, Rows]) -> str:
    rewards = [row["reward"] for row in next(iter(columns.values())) if row["test_set"] == ALL]
    lines = [
        [reward, *(cell for rows in columns.values() for cell in _cells(_find(rows, ALL, reward)))]
        for reward in rewards
    ]
    return table(["reward", *(head for name in columns for head in _heads(name))], lines)


def _set_table(summary: Mapping[str, Any]) -> str:
    columns: Mapping[str, Rows] = summary["pooled"]
    sets = dict.fromkeys(row["test_set"] for row in next(iter(columns.values())))
    lines = [
        [name, reward, *(cell for rows in columns.values() for cell in _cells(_find(rows, name, reward)))]
        for name in sets
        if name != ALL
        for reward in summary["shown"]
    ]
    return table(["test set", "reward", *(head for name in columns for head in _heads(name))], lines)


def _heads(name: str) -> list[str]:
    return [f"{name}: difference", "effect", "win rate", "ties"]


def _cells(row: Mapping[str, Any]) -> list[str]:
    effect = "–" if row["effect"] is None else f"{row['effect']:+.2f}"
    difference = measured(row, "difference", f"+.{decimals(row['base_std'])}f")
    return [difference, effect, measured(row, "win_rate", ".1%"), str(row["ties"])]


def _find(rows: Rows, test_set: str, reward: str) -> dict[str, Any]:
    return next(row for row in rows if row["test_set"] == test_set and row["reward"] == reward)


def _seconds(seconds: Mapping[str, float]) -> str:
    return table(["stage", *seconds], [["seconds", *(f"{value:.0f}" for value in seconds.values())]])
