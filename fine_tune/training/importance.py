"""Levels drawn by the size of their gradients, each loss weighed so that training has the same one on average.

The alternative to a range: all levels stay. An update of independent units has the least variance if levels are drawn
in proportion to the root mean square norm of a unit's gradient (arXiv 1401.2753, for samples in place of levels).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from tgo_pipeline.errors import TgoError
from tgo_pipeline.seeds import SEEDS, derive_seed

if TYPE_CHECKING:
    from torch import Tensor

    from fine_tune.objectives.base import Objective
    from fine_tune.policies.base import Policy

CANDIDATES = 8
"""Draws of the family's own, of which one is taken: no level is taken more often than 8 times as often."""
OWN_SHARE = 0.1
"""Of the rates that is the family's own draw, so that every level is drawn and no weight is without bound."""


@dataclass(frozen=True)
class Importance:
    """How much more often than the others the levels of each bin are taken."""

    edges: np.ndarray
    """(bins - 1,) between the bins."""
    rates: np.ndarray
    """(bins,), 1 on average."""

    @classmethod
    def of(cls, measured: Sequence[Mapping[str, Any]]) -> Self:
        """In proportion to `unit_norm` of bins that follow each other from `low` to `low`."""
        norms = np.array([row["unit_norm"] for row in measured])
        edges = np.array([row["low"] for row in measured[1:]])
        return cls(edges, OWN_SHARE + (1 - OWN_SHARE) * norms / norms.mean())

    def draw(
        self, policy: Policy, images: Mapping[str, Any], conditions: Mapping[str, Any], seeds: Sequence[int]
    ) -> tuple[list[int], np.ndarray]:
        """The seeds to corrupt with in place of these, and the (B,) weights of the losses; a row's own seed says both.

        Of the candidates of a row one is taken in proportion to the rates, and weighs their mean rate over its own:
        whatever is averaged over levels is what it was, candidates for candidates.
        """
        others = [
            [derive_seed(seed, str(number), "level candidate") for seed in seeds]
            for number in range(CANDIDATES)
        ]
        drawn = [policy.noise_level(policy.corrupt(images, conditions, each)) for each in others]
        rates = np.stack([self._rates(levels) for levels in drawn])
        uniform = np.array([derive_seed(seed, "", "level choice") / SEEDS for seed in seeds])
        taken = choose(rates, uniform)
        rows = range(len(seeds))
        return [others[taken[row]][row] for row in rows], rates.mean(0) / rates[taken, rows]

    def _rates(self, levels: Tensor) -> np.ndarray:
        return self.rates[np.searchsorted(self.edges, levels.double().cpu().numpy(), side="right")]


def choose(rates: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """(B,) which of the candidates (K, B), in proportion to their rates, a number in [0, 1) of each column says."""
    upto = np.cumsum(rates, 0)
    return np.minimum((upto <= uniform * upto[-1]).sum(0), len(rates) - 1)


def check(objective: Objective, draws: int) -> None:
    """Raise `TgoError` for a loss that is no mean over levels, which weights would change."""
    if objective.reference_point is not None:
        raise TgoError(
            f"fine_tune.noise_levels is importance, and {type(objective).__name__} as it is set compares every sample "
            "with the log-ratios of its batch, which other levels change: give a range or auto, or choose an objective "
            "without such a point, as tgo without reward_shift."
        )
    if draws > 1:
        raise TgoError(
            f"fine_tune.noise_levels is importance and draws is {draws}: the loss of a mean over draws has no weight "
            "for each; set draws to 1, or give a range or auto."
        )
