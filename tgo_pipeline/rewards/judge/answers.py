"""From a judge's answer to a number, or the reason why there is none."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from typing import Any

from tgo_pipeline.rewards.judge.settings import Settings

_NUMBER = re.compile(r"-?\d+(?:\.\d+)?")
SHOWN = 80
"""How many characters of an answer a reason quotes."""


class NoScore(Exception):
    """An answer that is no score; the message is the reason."""


def number(reply: Mapping[str, Any], settings: Settings) -> float:
    """The number in a chat completion. Raises `NoScore` with the reason."""
    try:
        choice = reply["choices"][0]
        if settings.answer == "yes":
            return _probability(choice["logprobs"]["content"][0]["top_logprobs"])
        text = choice["message"]["content"] or ""
    except (KeyError, IndexError, TypeError) as error:
        lacking = "no logprobs" if settings.answer == "yes" else "no text"
        raise NoScore(f"the server's answer has {lacking}") from error
    return _in_range(_found(text, settings), text, settings)


def _found(text: str, settings: Settings) -> str:
    if settings.pattern is not None:
        match = re.search(settings.pattern, text)
        found = match[1] if match else None
    else:
        found = next(iter(reversed(_NUMBER.findall(text))), None)
    if found is None:
        raise NoScore(f"no number in the answer {_shown(text)}")
    return found


def _in_range(found: str, text: str, settings: Settings) -> float:
    try:
        value = float(found)
    except ValueError as error:
        raise NoScore(f"{found!r} in the answer {_shown(text)} is no number") from error
    if not settings.low <= value <= settings.high:
        raise NoScore(f"the answer {_shown(text)} is not from {settings.low:g} to {settings.high:g}")
    return value


def _probability(top: list[Mapping[str, Any]]) -> float:
    """P(yes) / (P(yes) + P(no)) of the first token, whatever its case and blanks."""
    sums = {"yes": 0.0, "no": 0.0}
    for each in top:
        word = str(each["token"]).strip().casefold()
        if word in sums:
            sums[word] += math.exp(float(each["logprob"]))
    total = sum(sums.values())
    if not total > 0:
        raise NoScore("neither Yes nor No is among the likeliest first tokens of the answer")
    return sums["yes"] / total


def _shown(text: str) -> str:
    line = " ".join(text.split())
    return repr(line if len(line) <= SHOWN else f"{line[: SHOWN - 1]}…")
