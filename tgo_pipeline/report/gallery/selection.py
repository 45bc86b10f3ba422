"""Which samples a gallery of bounded size holds: spread over the score, the extremes first, the same every time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import polars as pl


def spread_order(n: int) -> np.ndarray:
    """A permutation of the ranks 0 to n - 1, every prefix of which covers them evenly.

    Both ends come first, then the middles of the widest gaps (the bits of the rank reversed, as in van der Corput's
    sequence).
    """
    if n < 3:
        return np.arange(n)[::-1]
    bits = int(n - 1).bit_length()
    codes = np.arange(2**bits)
    reversed_ = np.zeros_like(codes)
    for bit in range(bits):
        reversed_ |= ((codes >> bit) & 1) << (bits - 1 - bit)
    inner = reversed_[(reversed_ > 0) & (reversed_ < n - 1)]
    return np.concatenate(([n - 1, 0], inner))


def priority(groups: Mapping[str, Sequence[float | None]]) -> list[tuple[str, int]]:
    """Every (group, place in the group), most worth showing first.

    A group is ordered by `spread_order` of its values (those without one come last in their order). Groups take turns
    in proportion to the square root of their sizes, so that a few failures or a small test set are not lost beside
    millions of training images.
    """
    queue: list[tuple[float, int, str, int]] = []
    for number, (name, values) in enumerate(groups.items()):
        keys = np.array([np.nan if value is None else value for value in values], dtype=np.float64)
        by_value = np.argsort(keys, kind="stable")
        ranked, rest = by_value[: int(np.isfinite(keys).sum())], by_value[int(np.isfinite(keys).sum()) :]
        order = np.concatenate((ranked[spread_order(len(ranked))], rest)).astype(int)
        share = np.sqrt(len(order))
        queue += [((turn + 1) / share, number, name, int(place)) for turn, place in enumerate(order)]
    return [(name, place) for _, _, name, place in sorted(queue, key=lambda entry: entry[:2])]


def ranked_units(frame: pl.DataFrame, by: str) -> list[list[int]]:
    """The rows of a frame of candidates in units that are shown together, most worth showing first.

    A unit is one training image, or what all models made of one test sample; it stands at the score `by`
    of the last model that has one, in its group: the split, with the failures apart.
    """
    units: dict[tuple[str, str], list[int]] = {}
    failed: dict[tuple[str, str], bool] = {}
    values: dict[tuple[str, str], float | None] = {}
    columns = frame.select("split", "sample_id", "error", by).iter_rows()
    for row, (split, sample_id, error, value) in enumerate(columns):
        unit = (split, sample_id)
        units.setdefault(unit, []).append(row)
        failed[unit] = failed.get(unit, False) or error is not None
        values[unit] = values.get(unit) if value is None else value
    groups: dict[str, list[tuple[str, str]]] = {}
    for unit in units:
        groups.setdefault(f"{unit[0]}\0{failed[unit]}", []).append(unit)
    order = priority({name: [values[unit] for unit in members] for name, members in groups.items()})
    return [units[groups[name][place]] for name, place in order]
