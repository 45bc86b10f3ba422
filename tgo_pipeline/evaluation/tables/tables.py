"""The tables of an evaluation as sheets of text, which `markdown`, `latex` and the terminal show alike."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from tgo_pipeline.evaluation.statistics.scores import ALL
from tgo_pipeline.rendering.table import (
    Row,
    Sheet,
    Strong,
    decimals,
    interval,
    number,
    p_text,
)
from tgo_pipeline.rendering.text import MISSING


def set_title(name: str, rows: Sequence[Row]) -> str:
    """A test set and its prompts: those of the reward that most of them have a score of."""
    title = "All test sets together" if name == ALL else f"Test set {name}"
    return f"{title} ({max(row['n_prompts'] for row in rows)} prompts)"


def reward_name(row: Row) -> str:
    """The name of a row's reward; the target is marked."""
    return f"{row['reward']} (target)" if row["is_target"] else row["reward"]


def split(rows: Iterable[Row], *keys: str) -> dict[tuple, list[Row]]:
    """The rows by the values of some columns, in the order of their first row."""
    parts: dict[tuple, list[Row]] = {}
    for row in rows:
        parts.setdefault(tuple(row[key] for key in keys), []).append(row)
    return parts


def distinct_sets(rows: Sequence[Row]) -> list[Row]:
    """The rows of whole test sets; without those of all together where there is one set, which it repeats."""
    whole = [row for row in rows if row.get("category") is None]
    sets = {row["test_set"] for row in whole}
    return [row for row in whole if len(sets) > 2 or row["test_set"] != ALL]


def evaluation_sheets(rows: Sequence[Row], confidence: float) -> list[Sheet]:
    """The tuned model against the base model, a sheet per test set."""
    level = f"[{confidence:.0%}]"
    return [
        Sheet(
            title=f"{set_title(name, part)}: tuned against base",
            columns=(
                *("Reward", "Base", "Tuned", f"Difference {level}", "Effect", f"Win rate {level}"),
                *(f"Win + half ties {level}", "Wins / ties / losses", "n"),
            ),
            rows=[_evaluation_row(row) for row in part],
            note="Effect: difference in standard deviations of the base. A win is strict.",
        )
        for (name,), part in split(distinct_sets(rows), "test_set").items()
    ]


def short_sheet(title: str, rows: Sequence[Row], confidence: float) -> Sheet:
    """The tuned model against the base model in few columns, for the terminal and a model card."""
    level = f"[{confidence:.0%}]"
    return Sheet(
        title=title,
        columns=("reward", "base", "tuned", f"difference {level}", "effect", f"win rate {level}", "ties"),
        rows=[[reward_name(row), *_gain(row), str(row["ties"])] for row in rows],
    )


def _gain(row: Row) -> list[str]:
    """Both means, their difference, the effect and the win rate."""
    places = decimals(row["base_std"])
    return [
        f"{row['base_mean']:.{places}f}",
        f"{row['tuned_mean']:.{places}f}",
        interval(row, "difference", f"+z.{places}f"),
        number(row["effect"], "+z.2f"),
        interval(row, "win_rate", ".1%"),
    ]


def _evaluation_row(row: Row) -> list[str]:
    return [
        reward_name(row),
        *_gain(row),
        interval(row, "win_tie_rate", ".1%"),
        f"{row['wins']} / {row['ties']} / {row['losses']}",
        str(row["n"]),
    ]


def models_sheets(rows: Sequence[Row], confidence: float) -> list[Sheet]:
    """Means at a glance, then means, medians and intervals per test set, diversity, and means per category."""
    whole = distinct_sets(rows)
    sheets = [_means(part, name) for (name,), part in split(whole, "test_set").items()]
    sheets += [_details(part, name, confidence) for (name,), part in split(whole, "test_set").items()]
    if any(row["pixel_distance"] is not None for row in whole):
        sheets.append(_diversity(whole, confidence))
    parts = split((row for row in rows if row["category"] is not None), "test_set", "grouping")
    return sheets + [_by_category(part, name, grouping) for (name, grouping), part in parts.items()]


def _means(rows: Sequence[Row], name: str) -> Sheet:
    by_reward = split(rows, "reward")
    styles = {reward: f".{decimals(part[0]['std'] or 0.0)}f" for (reward,), part in by_reward.items()}
    best = {
        reward: max((row["mean"] for row in part if row["mean"] is not None), default=None)
        for (reward,), part in by_reward.items()
    }

    def cell(row: Row) -> str:
        text = number(row["mean"], styles[row["reward"]])
        return Strong(text) if row["mean"] is not None and row["mean"] == best[row["reward"]] else text

    return Sheet(
        title=f"{set_title(name, rows)}: means",
        columns=("Model", *(reward_name(part[0]) for part in by_reward.values())),
        rows=[[model, *map(cell, part)] for (model,), part in split(rows, "model").items()],
        note="The highest mean of a reward stands out, which says nothing of certainty: see the matrix.",
    )


def _details(rows: Sequence[Row], name: str, confidence: float) -> Sheet:
    lines = []
    for part in split(rows, "reward").values():
        style = f".{decimals(part[0]['std'] or 0.0)}f"
        lines += [
            [
                reward_name(row),
                row["model"],
                interval(row, "mean", style),
                number(row["median"], style),
                number(row["std"], style),
                str(row["n"]),
                str(row["n_missing"]),
            ]
            for row in part
        ]
    return Sheet(
        title=f"{set_title(name, rows)}: means and medians",
        columns=("Reward", "Model", f"Mean [{confidence:.0%}]", "Median", "SD", "n", "Not scored"),
        rows=lines,
        labels=2,
    )


def _diversity(rows: Sequence[Row], confidence: float) -> Sheet:
    firsts = [part[0] for part in split(rows, "test_set", "model").values()]
    return Sheet(
        title="Diversity: mean distance of two images of one prompt",
        columns=("Test set", "Model", f"CLIP [{confidence:.0%}]", f"Pixels [{confidence:.0%}]"),
        rows=[
            [
                row["test_set"],
                row["model"],
                interval(row, "clip_distance", "z.4f"),
                interval(row, "pixel_distance", "z.4f"),
            ]
            for row in firsts
        ],
        labels=2,
        note="CLIP: 1 - cosine of image embeddings. Pixels: root mean square difference, of values from 0 to 1.",
    )


def _by_category(rows: Sequence[Row], name: str, grouping: str) -> Sheet:
    by_reward = split(rows, "reward")
    styles = {reward: f".{decimals(part[0]['std'] or 0.0)}f" for (reward,), part in by_reward.items()}
    return Sheet(
        title=f"Test set {name}: means by {grouping}",
        columns=(grouping.capitalize(), "Model", "n", *(reward_name(part[0]) for part in by_reward.values())),
        rows=[
            [
                category,
                model,
                str(part[0]["n"]),
                *(number(row["mean"], styles[row["reward"]]) for row in part),
            ]
            for (category, model), part in split(rows, "category", "model").items()
        ],
        labels=2,
    )


def matrix_sheets(rows: Sequence[Row], confidence: float) -> list[Sheet]:
    """Win rates of every model against every other, each pair in detail, and win rates per category."""
    whole = distinct_sets(rows)
    parts = split(whole, "test_set")
    sheets = []
    if len(split(whole, "model_a")) > 2:
        sheets = [
            _square(reward_rows, name)
            for (name,), part in parts.items()
            for reward_rows in split(part, "reward").values()
        ]
    sheets += [_pairs(part, name, confidence) for (name,), part in parts.items()]
    by_category = split((row for row in rows if row["category"] is not None), "test_set", "grouping")
    return sheets + [_category_rates(part, name, grouping) for (name, grouping), part in by_category.items()]


def _square(rows: Sequence[Row], name: str) -> Sheet:
    models = list(dict.fromkeys(row["model_a"] for row in rows))
    found = {(row["model_a"], row["model_b"]): _rate(row) for row in rows}
    return Sheet(
        title=f"{set_title(name, rows)}: win rate by {reward_name(rows[0])}",
        columns=("Model against", *models),
        rows=[[a, *(found.get((a, b), MISSING) for b in models)] for a in models],
        note="The row's model against the column's, ties counting for neither; * marks a significant difference of the "
        "means.",
    )


def _rate(row: Row) -> str:
    return number(row["win_rate"], ".1%") + ("*" if row["significant"] else "")


def _pairs(rows: Sequence[Row], name: str, confidence: float) -> Sheet:
    level = f"[{confidence:.0%}]"
    return Sheet(
        title=f"{set_title(name, rows)}: pairs of models",
        columns=(
            *("Reward", "Model", "against", f"Win rate {level}", f"Win + half ties {level}"),
            *("Wins / ties / losses", f"Difference {level}", "p", "p adjusted"),
        ),
        rows=[
            _pair_row(row, f"+z.{max(map(_places, part))}f")
            for part in split(rows, "reward").values()
            for row in _once(part)
        ],
        labels=3,
        note="Each pair from one side, its later model first. * marks a significant difference of the means.",
    )


def _once(rows: Iterable[Row]) -> list[Row]:
    """Each pair once, the model that comes later in the first place."""
    seen: set[frozenset[str]] = set()
    kept = []
    for row in reversed(list(rows)):
        couple = frozenset((row["model_a"], row["model_b"]))
        if couple not in seen:
            seen.add(couple)
            kept.append(row)
    return kept[::-1]


def _places(row: Row) -> int:
    """Decimals that show a hundredth of the interval of a difference, or of the difference itself."""
    low, high = row["difference_low"], row["difference_high"]
    return decimals(10 * (abs(row["difference"] or 0.0) if low is None else high - low))


def _pair_row(row: Row, style: str) -> list[str]:
    return [
        reward_name(row),
        row["model_a"],
        row["model_b"],
        interval(row, "win_rate", ".1%"),
        interval(row, "win_tie_rate", ".1%"),
        f"{row['wins']} / {row['ties']} / {row['losses']}",
        interval(row, "difference", style),
        p_text(row["p_value"]),
        p_text(row["p_adjusted"]) + ("*" if row["significant"] else ""),
    ]


def _category_rates(rows: Sequence[Row], name: str, grouping: str) -> Sheet:
    rewards = split(rows, "reward")
    lines = [
        [category, a, b, str(part[0]["n"]), *map(_rate, part)]
        for (category, a, b), part in split(
            [row for part in split(rows, "category", "reward").values() for row in _once(part)],
            "category",
            "model_a",
            "model_b",
        ).items()
    ]
    return Sheet(
        title=f"Test set {name}: win rates by {grouping}",
        columns=(
            *(grouping.capitalize(), "Model", "against", "n"),
            *(reward_name(part[0]) for part in rewards.values()),
        ),
        rows=lines,
        labels=3,
        note="Ties count for neither; * marks a significant difference of the means, among all tests by "
        f"{grouping}.",
    )


def hacking_sheets(rows: Sequence[Row], confidence: float) -> list[Sheet]:
    """How the target's gain shows in other rewards, a sheet per test set."""
    level = f"[{confidence:.0%}]"
    return [
        Sheet(
            title=f"{set_title(name, part)}: does the gain of {part[0]['target']} show elsewhere?",
            columns=(
                *("Model", "Reward", "Role", "Verdict", f"Target, sd {level}", f"Reward, sd {level}"),
                *(f"Share of the gain {level}", f"Target up, reward down {level}"),
            ),
            rows=[
                [
                    row["model"],
                    row["reward"],
                    row["role"],
                    row["verdict"],
                    interval(row, "target_gain", "+z.2f"),
                    interval(row, "gain", "+z.2f"),
                    interval(row, "share", ".0%"),
                    interval(row, "against", ".1%"),
                ]
                for row in part
            ],
            labels=4,
            note="Gains against the base model, in standard deviations of its scores.",
        )
        for (name,), part in split(distinct_sets(rows), "test_set").items()
    ]


SHEETS: Mapping[str, Callable[[Sequence[Row], float], list[Sheet]]] = {
    "evaluation": evaluation_sheets,
    "models": models_sheets,
    "matrix": matrix_sheets,
    "hacking": hacking_sheets,
}
TITLES = {
    "evaluation": "Tuned against base model",
    "models": "Models",
    "matrix": "Every model against every other",
    "hacking": "Does the target's gain show in other rewards?",
}
