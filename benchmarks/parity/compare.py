"""Our numbers against those of the official code: what agrees, what the official code cannot score, what is wrong."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

TOLERANCE = {
    "hpsv2.1": 1e-5,
    "hpsv2.0": 1e-5,
    "pickscore": 1e-3,
    "imagereward": 1e-5,
    "clip/openai-l14": 1e-5,
    "clip/laion-h14-hpspad": 1e-5,
    "aesthetic": 1e-5,
}
"""Greatest difference allowed between two float32 scores, in score units; PickScore's are 100 times a cosine."""

PIXEL_TOLERANCE = 1e-5
"""For prepared images, whose values are normalised to a deviation near 1."""

_HPS = frozenset({"hpsv2.1", "hpsv2.0", "clip/laion-h14-hpspad"})
_RESIZED_FIRST = frozenset({"imagereward", "clip/openai-l14", "aesthetic"})
BY_DESIGN: dict[str, tuple[str, frozenset[str]]] = {
    "rgba": (
        "transparency is composited on white; the official code drops it and shows the colours underneath",
        frozenset(TOLERANCE),
    ),
    "sixteen_bit": (
        "16-bit grey keeps its shades; the official code clips everything above 255 to white",
        frozenset(TOLERANCE),
    ),
    "turned": (
        "a camera's note to turn the image is obeyed; the official code ignores it",
        frozenset(TOLERANCE),
    ),
    "palette": ("converted to RGB before resizing; this official code picks single pixels", _RESIZED_FIRST),
    "cmyk": ("converted to RGB before resizing; this official code resizes the four inks", _RESIZED_FIRST),
}
"""Kinds of image that are read otherwise on purpose: why, and by which rewards' official code."""

TWIN = " (twin)"
"""Ends the name of the plain RGB image whose official score is to be that of the image itself here."""

_PADDED_TWINS = {"long_side_224": _HPS}
"""Twins that are equal for some rewards only."""


@dataclass(frozen=True)
class Ours:
    """What this project gives for one reward: scores by (image, prompt), prepared images, token ids."""

    scores: Mapping[tuple[str, str], float]
    prepared: Mapping[str, np.ndarray]
    tokens: Mapping[str, list[int]]


@dataclass
class Comparison:
    """One reward at one size. Differences are the greatest absolute ones, in the units of the score."""

    reward: str
    tolerance: float
    pairs: int = 0
    difference: float = 0.0
    spread: float = 0.0
    ours_to_exact: float | None = None
    official_to_exact: float | None = None
    pixels: float = 0.0
    prompts: int = 0
    crashes: dict[str, str] = field(default_factory=dict)
    by_design: dict[str, float] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)


def compare(
    reward: str, answer: Mapping[str, Any], official_pixels: Mapping[str, np.ndarray], ours: Ours
) -> Comparison:
    """Compare scores, prepared images, token ids and ranks; whatever exceeds a tolerance goes to `problems`."""
    found = Comparison(reward, TOLERANCE[reward])
    _compare_scores(found, answer["pairs"], ours)
    if not answer["tokens"]:  # every prompt gave the same numbers
        found.pairs //= len({pair["prompt"] for pair in answer["pairs"]})
    _compare_pixels(found, official_pixels, ours)
    _compare_tokens(found, answer["tokens"], ours)
    _compare_ranks(found, answer["ranks"], ours)
    return found


def is_by_design(reward: str, image: str) -> bool:
    """Whether a kind of image is read otherwise than by this reward's official code, on purpose."""
    return image in BY_DESIGN and reward in BY_DESIGN[image][1]


def _original(reward: str, image: str) -> str | None:
    """The image whose score here must be the official one of `image`; None for the twin of another reward."""
    name = image.removesuffix(TWIN)
    return None if image != name and reward not in _PADDED_TWINS.get(name, {reward}) else name


def _compare_scores(found: Comparison, pairs: list[Mapping[str, Any]], ours: Ours) -> None:
    official = []
    for pair in pairs:
        image, prompt, theirs = pair["image"], pair["prompt"], pair["score"]
        name = _original(found.reward, image)
        if name is None:
            continue
        own = ours.scores[name, prompt]
        if not math.isfinite(own):
            found.problems.append(f"{found.reward}: {image} with prompt {prompt} has score {own}")
        if pair["error"]:
            found.crashes[image if theirs is None else f"prompt {prompt}"] = pair["error"]
        if theirs is None:
            continue
        difference = abs(own - theirs)
        if is_by_design(found.reward, image):
            found.by_design[image] = max(found.by_design.get(image, 0.0), difference)
            continue
        official.append(theirs)
        found.difference = max(found.difference, difference)
        if "exact" in pair:
            found.ours_to_exact = max(found.ours_to_exact or 0.0, abs(own - pair["exact"]))
            found.official_to_exact = max(found.official_to_exact or 0.0, abs(theirs - pair["exact"]))
        if not difference <= found.tolerance:
            found.problems.append(f"{found.reward}: {image} with prompt {prompt} has {own}, not {theirs}")
    found.pairs = len(official)
    found.spread = float(np.std(official)) if official else 0.0
    if not official:
        found.problems.append(f"{found.reward}: the official code scored no pair at all")


def _compare_pixels(found: Comparison, official: Mapping[str, np.ndarray], ours: Ours) -> None:
    for image, theirs in official.items():
        name = _original(found.reward, image)
        if name is None or is_by_design(found.reward, image) or image in found.crashes:
            continue
        own = ours.prepared[name]
        difference = float(np.abs(own - theirs).max()) if own.shape == theirs.shape else math.inf
        found.pixels = max(found.pixels, difference)
        if difference > PIXEL_TOLERANCE:
            found.problems.append(f"{found.reward}: {image} is prepared otherwise, by up to {difference}")


def _compare_tokens(found: Comparison, official: Mapping[str, list[int]], ours: Ours) -> None:
    """Ours must begin with theirs; what follows may only be padding, which is one number over and over."""
    for prompt, theirs in official.items():
        own = ours.tokens[prompt]
        found.prompts += 1
        if own[: len(theirs)] != theirs or len(set(own[len(theirs) :])) > 1:
            found.problems.append(f"{found.reward}: prompt {prompt} has token ids {own}, not {theirs}")


def _compare_ranks(found: Comparison, official: Mapping[str, Mapping[str, Any]], ours: Ours) -> None:
    """ImageReward's list call: the same scores, and the same order of what differs by more than the tolerance."""
    for prompt, listed in official.items():
        rows = [
            (ours.scores[name, prompt], score, rank)
            for image, score, rank in zip(listed["images"], listed["scores"], listed["ranks"], strict=True)
            if (name := _original(found.reward, image)) and not is_by_design(found.reward, image)
        ]
        rows.sort(key=lambda row: row[2])
        own = np.array([row[0] for row in rows])
        listed_difference = np.abs(own - [row[1] for row in rows]).max(initial=0.0)
        found.difference = max(found.difference, float(listed_difference))
        if listed_difference > found.tolerance or (np.diff(own) > found.tolerance).any():
            found.problems.append(f"{found.reward}: the list call ranks prompt {prompt} otherwise")
