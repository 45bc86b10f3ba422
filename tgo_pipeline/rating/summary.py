"""What a ratings file holds: answers, time and agreement."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from tgo_pipeline.feedback.ratings_file import Judgement
from tgo_pipeline.rating.agreement import Metric, alpha
from tgo_pipeline.rendering.table import Sheet
from tgo_pipeline.rendering.text import count, number

METRICS: dict[str, Metric] = {"rating": "ordinal", "thumb": "nominal", "pair": "nominal"}
NOUNS = {"rating": "stars", "thumb": "thumbs", "pair": "choices between two"}


def described(answers: Sequence[Judgement], kind: str) -> dict[str, Any]:
    """Of the answers of a kind: counts and median seconds of each rater, and the agreement of all."""
    mine = [each for each in answers if each.kind == kind]
    said = [each for each in mine if each.value is not None]
    units: dict[frozenset[str], list[float]] = defaultdict(list)
    for each in said:
        units[frozenset(each.images)].append(_value(each))
    return {
        "answers": len(said),
        "skipped": len(mine) - len(said),
        "images": len({name for each in said for name in each.images}),
        "shared": sum(len(values) > 1 for values in units.values()),
        "alpha": alpha(list(units.values()), METRICS[kind]),
        "raters": [
            {"name": name, **_of_rater([each for each in mine if each.rater == name])}
            for name in sorted({each.rater for each in mine})
        ],
    }


def sheets(answers: Sequence[Judgement]) -> list[Sheet]:
    """A table for each kind of answer that there is."""
    kinds = [kind for kind in NOUNS if any(each.kind == kind for each in answers)]
    return [_sheet(described(answers, kind), kind) for kind in kinds]


def agreement(found: dict[str, Any]) -> str:
    """The agreement in a sentence."""
    if found["alpha"] is None:
        return "Agreement between raters: not known until two of them have judged the same."
    return (
        f"Agreement between raters: Krippendorff's alpha {number(found['alpha'], 2)} on {count(found['shared'])} that "
        "several judged (1 is agreement, 0 chance)."
    )


def _sheet(found: dict[str, Any], kind: str) -> Sheet:
    rows = [
        [each["name"], count(each["answers"]), count(each["skipped"]), number(each["seconds"], 2)]
        for each in found["raters"]
    ]
    title = f"{count(found['answers'])} {NOUNS[kind]} on {count(found['images'])} images"
    return Sheet(title, ["rater", "answers", "skipped", "median s"], rows, note=agreement(found))


def _value(each: Judgement) -> float:
    """What was said, of a pair as if the names had been shown in their order."""
    value = each.value if each.value is not None else 0.0
    return 1 - value if each.kind == "pair" and each.images[0] > each.images[1] else value


def _of_rater(mine: Sequence[Judgement]) -> dict[str, Any]:
    said = [each for each in mine if each.value is not None]
    seconds = [each.seconds for each in said if each.seconds is not None]
    return {
        "answers": len(said),
        "skipped": len(mine) - len(said),
        "seconds": statistics.median(seconds) if seconds else None,
    }
