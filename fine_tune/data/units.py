"""Units of a batch: single samples, pairs of one prompt, or a positive sample with negatives of any prompts."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

from fine_tune.data.pairs import build_pairs
from tgo_pipeline.seeds import derive_seed

if TYPE_CHECKING:
    from fine_tune.data.labels import Labels
    from tgo_pipeline.params.objectives import PairParams


class Units(Protocol):
    """Which samples train together, epoch by epoch."""

    is_dealt: bool
    """Whether every epoch has units of its own, so that a number names another unit in another epoch."""

    @property
    def members(self) -> int:
        """Samples in a unit; the first is the positive one, or the better one of a pair."""
        ...

    def __len__(self) -> int:
        """Units in an epoch."""
        ...

    def of_epoch(self, epoch: int, labels: Labels) -> np.ndarray:
        """(N, members) rows of the labels, which are those of this epoch."""
        ...


@dataclass(frozen=True)
class FixedUnits:
    """The same units in every epoch."""

    rows: np.ndarray
    """(N, members) of the labels."""
    is_dealt = False

    @classmethod
    def singles(cls, labels: Labels) -> FixedUnits:
        """Every sample by itself."""
        return cls(np.arange(len(labels))[:, None])

    @classmethod
    def pairs(cls, labels: Labels, params: PairParams) -> FixedUnits:
        """A better and a worse sample of one prompt each, see `build_pairs`."""
        return cls(build_pairs(labels, params))

    @property
    def members(self) -> int:
        """Samples in a unit."""
        return self.rows.shape[1]

    def __len__(self) -> int:
        return len(self.rows)

    def of_epoch(self, epoch: int, labels: Labels) -> np.ndarray:
        """The rows, in every epoch the same."""
        return self.rows


class AcrossThreshold:
    """A positive sample with negatives of any prompts, dealt anew every epoch.

    An epoch has as many units as there are positive samples at first. Each side is dealt by systematic sampling from
    one seeded start: a sample whose share of its side is p comes up n p times in n places, rounded down or up, in
    proportion to its distance to the threshold |s - tau| or equally often.
    """

    is_dealt = True

    def __init__(self, labels: Labels, *, negatives: int, by_distance: bool, seed: int) -> None:
        self._negatives = negatives
        self._count = int(np.count_nonzero(labels.positive))
        self._by_distance = by_distance
        self._seed = seed
        self._dealt = functools.lru_cache(maxsize=2)(self._deal_epoch)  # a batch spans two epochs at times

    @property
    def members(self) -> int:
        """Samples in a unit: the positive one and its negatives."""
        return 1 + self._negatives

    def __len__(self) -> int:
        return self._count

    def of_epoch(self, epoch: int, labels: Labels) -> np.ndarray:
        """The rows that are dealt for this epoch."""
        return self._dealt(epoch, labels)

    def _deal_epoch(self, epoch: int, labels: Labels) -> np.ndarray:
        generator = np.random.default_rng(derive_seed(self._seed, f"epoch-{epoch}", "deal"))
        positive, negatives = np.flatnonzero(labels.positive), np.flatnonzero(~labels.positive)
        first = self._deal(labels, positive, self._count, generator)
        others = self._deal(labels, negatives, self._count * self._negatives, generator)
        return np.column_stack([first, others.reshape(self._count, -1)])

    def _deal(
        self, labels: Labels, rows: np.ndarray, places: int, generator: np.random.Generator
    ) -> np.ndarray:
        distance = np.abs(labels.relative_score[rows]) if self._by_distance else np.ones(len(rows))
        if not distance.any():  # all of a side are at the threshold
            distance = np.ones(len(rows))
        ends = np.cumsum(distance) / distance.sum() * places
        ends[-1] = places
        starts = generator.random() + np.arange(places)
        return generator.permutation(rows[np.searchsorted(ends, starts, side="right")])
