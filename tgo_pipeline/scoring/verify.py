"""Built-in rewards against the official packages, on one's own images, prompts and weights (`tgo verify-rewards`)."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from tgo_pipeline.devices import resolve_device
from tgo_pipeline.errors import TgoError
from tgo_pipeline.images import Columns, ImageSource
from tgo_pipeline.images import open as open_images
from tgo_pipeline.images.base import Content, are_clips
from tgo_pipeline.rewards import load_reward
from tgo_pipeline.rewards.engine.scorer import Scores, score_all
from tgo_pipeline.rewards.isolated.names import OFFICIAL, PACKAGES
from tgo_pipeline.rewards.specs import Spec, canonical
from tgo_pipeline.scoring.command.options import Call
from tgo_pipeline.scoring.command.prompts import OwnPrompts, PromptLookup, choose

ALLOWED, ALLOWED_HALF = 1e-5, 2e-3
"""Greatest difference of two scores in single precision; and where one of both computes in half."""


@dataclass(frozen=True)
class Verdict:
    """How a number of one built-in reward and of its official package agree on a sample."""

    reward: str
    package: str
    images: int
    """Scored by both."""
    failed: int
    """Not scored by the package, or by none; `reason` is the first."""
    reason: str | None
    greatest: float
    mean: float
    allowed: float
    swapped: int
    """Pairs of images whose order differs, of `pairs`."""
    pairs: int

    @property
    def agree(self) -> bool:
        """Whether they do, on everything that both scored."""
        return bool(self.images) and self.greatest <= self.allowed

    @property
    def sentence(self) -> str:
        """The verdict in words."""
        missing = f" {self.failed} have no score to compare: {self.reason}." if self.failed else ""
        if not self.images:
            return f"{self.reward}: nothing could be compared.{missing}"
        how = "equals" if self.agree else "DIFFERS from"
        return f"{self.reward} {how} {self.package} on {self.images} images.{missing}"


def verify(call: Call, sample: int) -> list[Verdict]:
    """Score `sample` images, evenly spread, both ways. Raises `TgoError` for rewards without an official package."""
    specs = call.specs()
    for spec in specs.values():
        if canonical(spec.reward) not in PACKAGES:
            raise TgoError(f"{spec.reward} has no official package here: there are {', '.join(PACKAGES)}.")
    images, prompts = _sample(call, sample)
    return [each for spec in specs.values() for each in _compared(call, spec, images, prompts)]


def _compared(call: Call, spec: Spec, images: list[Content], prompts: list[str]) -> list[Verdict]:
    """The score and each further number, both ways one after the other: one network is in memory at a time."""
    device = resolve_device(call.device)
    other = Spec(f"{spec.column}-official", f"{OFFICIAL}{canonical(spec.reward)}", spec.source)
    official = load_reward(other, None, device)
    theirs = score_all({other.column: official}, images, prompts, parts=True)
    package = official.identity["packages"].split(",")[0]
    del official
    built_in = load_reward(spec, None, device, call.dtype)
    ours = score_all({spec.column: built_in}, images, prompts, parts=True)
    half = device.type == "cuda" or call.dtype == "fp16"
    allowed = ALLOWED_HALF if half else ALLOWED
    return [
        compare(
            f"{spec.reward}{own.removeprefix(spec.column)}",
            package,
            _only(ours, own),
            _only(theirs, other),
            allowed,
        )
        for own, other in zip(ours.columns, theirs.columns, strict=True)
    ]


def _only(scores: Scores, name: str) -> Scores:
    """One column of several."""
    return Scores({name: scores.columns[name]}, scores.errors)


def compare(reward: str, package: str, ours: Scores, theirs: Scores, allowed: float) -> Verdict:
    """Differences of two columns of the same images, and pairs whose order differs."""
    (own,), (official,) = ours.columns.values(), theirs.columns.values()
    both = np.isfinite(own) & np.isfinite(official)
    a, b = own[both].astype(float), official[both].astype(float)
    difference = np.abs(a - b)
    first, second = np.triu_indices(len(a), 1)
    swapped = np.sign(a[first] - a[second]) * np.sign(b[first] - b[second]) < 0
    reasons = {**theirs.errors, **ours.errors}
    return Verdict(
        reward,
        package,
        len(a),
        int((~both).sum()),
        reasons[min(reasons)] if reasons else None,
        difference.max(initial=0.0),
        difference.mean() if len(a) else 0.0,
        allowed,
        int(swapped.sum()),
        len(first),
    )


def _sample(call: Call, sample: int) -> tuple[list[Content], list[str]]:
    """Images, evenly spread over those of the call, or the first of a stream, with their prompts."""
    columns = Columns(call.image_column, call.prompt_column)
    lookup = choose(call.prompts, call.prompt, columns)
    sources = open_images(call.paths, replace(columns, prompts=isinstance(lookup, OwnPrompts)), set())
    if are_clips(sources):
        raise TgoError("the official packages that are compared with score images, and clips are named.")
    rows = list(_rows(sources, lookup, sample))
    if not rows:
        raise TgoError(f"{' '.join(call.paths)} holds no image.")
    images, prompts, names = zip(*rows, strict=True)
    if lacking := [name for name, prompt in zip(names, prompts, strict=True) if prompt is None]:
        raise TgoError(f"{lacking[0]} has no prompt: {lookup.advice}.")
    return list(images), list(prompts)


def _rows(
    sources: list[ImageSource], lookup: PromptLookup, sample: int
) -> Iterator[tuple[Content, str | None, str]]:
    count = sum(source.count or sample for source in sources)
    wanted = set(np.unique(np.linspace(0, count - 1, min(sample, count)).round().astype(int)).tolist())
    rows = itertools.chain.from_iterable(source.rows(0, source.count or sample) for source in sources)
    for number, row in enumerate(rows):
        prompt = lookup.of(number, row)
        if number in wanted:
            yield row.content, prompt, row.image
