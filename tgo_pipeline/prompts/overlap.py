"""Prompts of one list that nearly repeat a prompt of another: an exact set-similarity join, near-linear in practice.

Two prompts are compared as sets of character shingles of their letters and digits, without case. Instead of comparing
all pairs, the rarest shingles of each set are looked up in an index (prefix filtering: Bayardo, Ma and Srikant,
"Scaling up all pairs similarity search", WWW 2007). Unlike MinHash it misses no pair and draws nothing at random.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import NamedTuple

SHINGLE = 5
"""About a word: shorter ones are shared by unlike prompts, longer ones are lost where one letter differs."""
ROUNDING = 1e-9
"""0.7 * 10 is above 7 in floating point: bounds are loosened by this, the final comparison is exact."""
NOWHERE = -1  # shingles that the index does not have come first: none is rarer

Index = dict[int, list[tuple[int, int]]]
"""Shingle to the sets that it is a rare shingle of, and its position there."""


class Match(NamedTuple):
    """`left[left_index]` and its most similar near duplicate `right[right_index]`."""

    left_index: int
    right_index: int
    similarity: float


def shingles(text: str) -> frozenset[str]:
    """The runs of `SHINGLE` characters of the text's letters and digits in lower case; a short text is its only one."""
    words = "".join(letter if letter.isalnum() else " " for letter in text.casefold()).split()
    plain = " ".join(words) or text.casefold()
    return frozenset(plain[i : i + SHINGLE] for i in range(max(1, len(plain) - SHINGLE + 1)))


def similarity(left: str, right: str) -> float:
    """The Jaccard similarity of the two shingle sets, from 0 to 1."""
    a, b = shingles(left), shingles(right)
    return len(a & b) / len(a | b)


def near_duplicates(left: Sequence[str], right: Sequence[str], threshold: float) -> list[Match]:
    """For every text of `left` that has one of `right` at `threshold` similarity or above, the most similar one."""
    order = _rarity(right)
    sets = [_ranked(text, order) for text in right]
    index: Index = defaultdict(list)
    for candidate, ranks in enumerate(sets):
        for position, rank in enumerate(_prefix(ranks, threshold)):
            index[rank].append((candidate, position))
    matches = (_best(_ranked(text, order), sets, index, threshold) for text in left)
    return [Match(i, *match) for i, match in enumerate(matches) if match is not None]


def _rarity(texts: Sequence[str]) -> dict[str, int]:
    """Number the shingles from the rarest to the commonest, from 0 on."""
    counts = Counter(shingle for text in texts for shingle in shingles(text))
    return {shingle: rank for rank, shingle in enumerate(sorted(counts, key=lambda s: (counts[s], s)))}


def _ranked(text: str, order: dict[str, int]) -> list[int]:
    """A shingle that no text of `order` has is the rarest of all: it matches nothing, however many share the rank."""
    return sorted(order.get(shingle, NOWHERE) for shingle in shingles(text))


def _prefix(ranks: Sequence[int], threshold: float) -> Sequence[int]:
    """So many of the rarest shingles that two sets at `threshold` must have one of them in common."""
    return ranks[: len(ranks) - math.ceil(threshold * len(ranks) - ROUNDING) + 1]


def _best(
    ranks: list[int], sets: Sequence[list[int]], index: Index, threshold: float
) -> tuple[int, float] | None:
    own = frozenset(ranks)
    best = None
    for candidate in _candidates(ranks, sets, index, threshold):
        common = len(own.intersection(sets[candidate]))
        score = common / (len(ranks) + len(sets[candidate]) - common)
        if score >= threshold and (best is None or (score, -candidate) > (best[1], -best[0])):
            best = (candidate, score)
    return best


def _candidates(
    ranks: Sequence[int], sets: Sequence[list[int]], index: Index, threshold: float
) -> Iterator[int]:
    """The sets that may be similar enough: both lists continue long enough behind the first shingle in common."""
    seen: set[int] = set()
    share = threshold / (1 + threshold)
    for position, rank in enumerate(_prefix(ranks, threshold)):
        rest = len(ranks) - position
        for candidate, other_position in index.get(rank, ()):
            if candidate not in seen:
                seen.add(candidate)
                size = len(sets[candidate])
                if min(rest, size - other_position) >= share * (len(ranks) + size) - ROUNDING:
                    yield candidate
