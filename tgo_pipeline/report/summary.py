"""The result in words: what the intervals allow to say about the target and about the held-out rewards."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tgo_pipeline.evaluation.statistics.intervals import may_decide
from tgo_pipeline.params import Params
from tgo_pipeline.rendering.text import count, percent, signed
from tgo_pipeline.report.collect import EvaluationRow

Role = Literal["target", "held out", "other"]
Direction = Literal["up", "down", "unclear"]
ALL = "all"
_VERBS = {"up": "rose", "down": "fell", "unclear": "shows no clear change"}


@dataclass(frozen=True)
class Headline:
    """One emphasised reward over all test sets; `direction` is where its interval of the difference lies."""

    row: EvaluationRow
    role: Role
    direction: Direction
    sentences: list[str]


def roles(params: Params, rows: Sequence[EvaluationRow]) -> dict[str, Role]:
    """Each reward's part: what was trained on, what no earlier stage saw, and the rest."""
    found: dict[str, Role] = {}
    held = {params.shown_names(name) for name in params.evaluate.rewards.keys() - params.score.rewards.keys()}
    for row in rows:
        found[row.reward] = "target" if row.is_target else "held out" if row.reward in held else "other"
    return found


def by_set(rows: Sequence[EvaluationRow]) -> dict[str, list[EvaluationRow]]:
    """Rows per test set, everything together first; inside a set target, held-out rewards, then the others."""
    names = sorted(dict.fromkeys(row.test_set for row in rows), key=lambda name: name != ALL)
    return {name: [row for row in rows if row.test_set == name] for name in names}


def direction(row: EvaluationRow, confidence: float) -> Direction:
    """Up or down only if the whole interval of the difference is on that side of zero, of enough prompts to tell."""
    if not may_decide(row.n_prompts, confidence):
        return "unclear"
    if row.difference_low is not None and row.difference_low > 0:
        return "up"
    if row.difference_high is not None and row.difference_high < 0:
        return "down"
    return "unclear"


def findings(params: Params, rows: Sequence[EvaluationRow]) -> list[Headline]:
    """The target first, then every held-out reward."""
    sets = by_set(rows)
    part = roles(params, rows)
    overall = next(iter(sets.values()), [])
    shown = [row for role in ("target", "held out") for row in overall if part[row.reward] == role]
    confidence = params.evaluate.confidence
    return [
        Headline(row, part[row.reward], direction(row, confidence), _sentences(row, sets, confidence))
        for row in shown
    ]


_SPELLING = {"cpgd": "cPGD", "mapo": "MaPO"}
"""Names of objectives that are not all capitals."""


def headline(found: Sequence[Headline], objective: str) -> str:
    """One sentence that says whether alignment worked, and no more than the intervals allow."""
    if not found or found[0].role != "target":
        said = "The target is feedback, which new images have none of: the rewards alone compare the models."
        return said + _held_out_clause(found)
    target, held_out = found[0], list(found[1:])
    name = _SPELLING.get(objective, objective if ":" in objective else objective.upper())
    if target.direction == "unclear":
        return f"{name} changed the target too little to tell it from chance.{_held_out_clause(held_out)}"
    if target.direction == "down":
        return f"{name} made the target worse.{_held_out_clause(held_out)}"
    if not held_out:
        return f"{name} raised the target; no held-out reward was evaluated with it."
    if all(finding.direction == "up" for finding in held_out):
        names = _names([finding.row.reward for finding in held_out])
        return f"{name} raised the target and, with it, the held-out {names}."
    warning = (
        " The reward may have been exploited rather than the images improved."
        if any(finding.direction == "down" for finding in held_out)
        else ""
    )
    return f"{name} raised the target.{_held_out_clause(held_out)}{warning}"


def _held_out_clause(held_out: Sequence[Headline]) -> str:
    return "".join(f" The held-out {finding.row.reward} {_VERBS[finding.direction]}." for finding in held_out)


def _names(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def _sentences(
    row: EvaluationRow, sets: Mapping[str, Sequence[EvaluationRow]], confidence: float
) -> list[str]:
    level = percent(confidence)
    effect = f"{signed(row.effect)} standard deviations of the base model"
    if row.effect_low is None:
        interval = "no interval: it takes two prompts"
    else:
        interval = f"{level} interval {signed(row.effect_low)} to {signed(row.effect_high)}"
    rates = f"{percent(row.win_rate, 1)} of the pairs ({percent(row.win_rate_low, 1)} to "
    rates += f"{percent(row.win_rate_high, 1)}); {percent(row.ties / row.n, 1)} are ties"
    said = [
        f"Mean difference {effect} ({interval}).",
        f"The tuned model wins {rates}.",
        f"{count(row.n)} pairs of images from {count(row.n_prompts)} prompts.",
    ]
    single = [
        other for name, rows in sets.items() if name != ALL for other in rows if other.reward == row.reward
    ]
    if len(single) > 1:
        clear = {
            side: sum(direction(other, confidence) == side for other in single) for side in ("up", "down")
        }
        said.append(
            f"Taken one by one, {clear['up']} of {len(single)} test sets show it above zero and {clear['down']} "
            "below."
        )
    return said
