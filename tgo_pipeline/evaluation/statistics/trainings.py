"""Models that are one setting trained with several seeds: their mean against the base, or against another setting's.

An interval over prompts alone is of these trainings: another seed may move an effect further than it reaches. Here
trainings are drawn again as well as prompts, so that the interval is of the setting.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.models import BASE
from tgo_pipeline.evaluation.statistics.breakdown import SampleSubset, cells
from tgo_pipeline.evaluation.statistics.compare import require_pairs
from tgo_pipeline.evaluation.statistics.intervals import (
    bootstrap_means,
    crossed_t_interval,
    spread,
)
from tgo_pipeline.evaluation.statistics.means import or_none
from tgo_pipeline.evaluation.statistics.scores import ModelScores
from tgo_pipeline.params import EvaluateParams
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.storage.tables import with_features

Floats = NDArray[np.float64]
_MEASURES = [
    *("base_std", "other_mean", "mean", "difference", "difference_low", "difference_high"),
    *("difference_t_low", "difference_t_high", "effect", "effect_low", "effect_high"),
    *("win_rate", "win_rate_low", "win_rate_high"),
]
TRAININGS = with_features(
    pa.schema(
        [pa.field(name, pa.string(), nullable=False) for name in ("test_set", "reward")]
        + [pa.field("is_target", pa.bool_(), nullable=False)]
        + [pa.field(name, pa.string(), nullable=False) for name in ("aggregate", "models", "against")]
        + [
            pa.field(name, pa.int64(), nullable=False)
            for name in ("n_trainings", "n_against", "n", "n_prompts", "n_excluded")
        ]
        + [pa.field(name, pa.float64()) for name in _MEASURES]
    )
)
"""Rows of whole groups, and of single trainings with intervals over prompts alone (`n_trainings` is 1)."""


@dataclass(frozen=True)
class TrainingGroups:
    """Names of the trainings of one setting, and what they are compared with: the base, or those of another setting."""

    ours: tuple[str, ...]
    theirs: tuple[str, ...] = (BASE,)

    @classmethod
    def named(cls, seeds: str, against: str | None, models: Sequence[str]) -> TrainingGroups:
        """From names with commas between them. Raises `TgoError` for what cannot be compared.

        `models` are all of the evaluation, the base among them.
        """
        ours = _names("--seeds", seeds, models)
        if len(ours) == 1:
            raise TgoError(
                f"--seeds names one training, {ours[0]}: how trainings differ takes two. `tgo evaluation --matrix` "
                "shows one, with intervals over prompts alone."
            )
        if against is None:
            return cls(ours)
        theirs = _names("--against", against, models)
        if both := [name for name in theirs if name in ours]:
            raise TgoError(
                f"{', '.join(both)} stands in --seeds and in --against: a training is of one setting."
            )
        return cls(ours, theirs)

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Which models are compared: by position where both groups are equally many, else each with each."""
        if len(self.ours) == len(self.theirs):
            return list(zip(self.ours, self.theirs, strict=True))
        return list(itertools.product(self.ours, self.theirs))

    @property
    def factors(self) -> NDArray[np.str_]:
        """What is drawn again of each pair, (pairs, 1) or (pairs, 2): a pair as one, or each side for itself."""
        return np.array(self.pairs if len(self.ours) != len(self.theirs) else [[own] for own in self.ours])

    @property
    def models(self) -> list[str]:
        """Every model that takes part, the base first, whose deviation is the unit of effects."""
        return list(dict.fromkeys([BASE, *self.ours, *self.theirs]))


def _names(option: str, text: str, models: Sequence[str]) -> tuple[str, ...]:
    names = [name.strip() for name in text.split(",")]
    trainings = [name for name in models if name != BASE]
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise TgoError(f"{option} names {', '.join(twice)} twice: a training counts once.")
    if BASE in names:
        raise TgoError(
            f"{option} names {BASE}, which is no training: it is what trainings are compared with."
        )
    if unknown := [name for name in names if name not in trainings]:
        raise TgoError(
            f"{option} names {', '.join(map(repr, unknown))}: the trainings of this evaluation are "
            f"{', '.join(trainings)} (evaluate.models names further ones)."
        )
    return tuple(names)


def trainings_table(
    scores: ModelScores, groups: TrainingGroups, target: str | None, params: EvaluateParams, seed: int
) -> pa.Table:
    """Per test set and reward a row of all trainings, then one of each; schema `TRAININGS`.

    A sample that one of the models has no score for is left out (`n_excluded`); `n` are the others, of each model.
    `effect` is the difference in standard deviations of the base. The intervals of all trainings together resample
    trainings and prompts; `difference_t_low` and `difference_t_high` are Student's over both. `scores` are aggregated
    already. Raises `TgoError` if a reward has no complete sample.
    """
    resampling = derive_seed(seed, "prompts", "bootstrap")
    rows = [
        row
        for cell in cells(scores)
        if cell.category is None
        for row in _rows(cell, scores, groups, target, params, resampling)
    ]
    return pa.Table.from_pylist(rows, schema=TRAININGS)


def _rows(
    cell: SampleSubset,
    scores: ModelScores,
    groups: TrainingGroups,
    target: str | None,
    params: EvaluateParams,
    seed: int,
) -> Iterator[dict[str, Any]]:
    values = {name: scores.values[scores.models.index(name)][cell.chosen] for name in groups.models}
    complete = np.all(~np.isnan(np.stack(list(values.values()))), axis=0)
    require_pairs(complete, cell.test_set, scores.rewards)
    values = {name: np.where(complete, each, np.nan) for name, each in values.items()}
    clusters = scores.prompt_ids[cell.chosen]
    parts = [groups.pairs, *([pair for pair in groups.pairs if pair[0] == own] for own in groups.ours)]
    for place, pairs in enumerate(parts):
        factors = groups.factors if place == 0 else None
        measured = _measures(pairs, values, clusters, factors, params, seed)
        for index, reward in enumerate(scores.rewards):
            kept = complete[:, index]
            base_std = spread(values[BASE][kept, index])
            yield (
                {"test_set": cell.test_set, "reward": reward, "is_target": reward == target}
                | {"aggregate": params.aggregate, **_who(pairs)}
                | {"n": int(kept.sum()), "n_excluded": int((~kept).sum())}
                | {"n_prompts": len(np.unique(clusters[kept])), "base_std": base_std}
                | _with_effect({name: or_none(each[index]) for name, each in measured.items()}, base_std)
            )


def _who(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    ours, theirs = (list(dict.fromkeys(side)) for side in zip(*pairs, strict=True))
    return {
        "models": ",".join(ours),
        "against": ",".join(theirs),
        "n_trainings": len(ours),
        "n_against": len(theirs),
    }


def _with_effect(row: dict[str, float | None], base_std: float) -> dict[str, float | None]:
    for end in ("", "_low", "_high"):
        value = row[f"difference{end}"]
        row[f"effect{end}"] = value / base_std if value is not None and base_std else None
    return row


def _measures(
    pairs: Sequence[tuple[str, str]],
    values: dict[str, NDArray],
    clusters: NDArray,
    factors: NDArray | None,
    params: EvaluateParams,
    seed: int,
) -> dict[str, Floats]:
    """The columns of some pairs of models by name, each (R,). Without `factors` intervals are over prompts alone."""
    one, other = (np.stack([values[pair[side]] for pair in pairs]) for side in (0, 1))  # (C, n, R)
    wins = np.where(np.isnan(one), np.nan, one > other)
    measured = {"difference": one - other, "win_rate": wins}
    ends = bootstrap_means(
        np.concatenate(list(measured.values()), axis=2).reshape(-1, 2 * one.shape[2]),
        np.tile(clusters, len(pairs)),
        resamples=params.bootstrap,
        confidence=params.confidence,
        seed=seed,
        trainings=None if factors is None else np.repeat(factors, len(clusters), axis=0),
    )
    found = dict.fromkeys(("difference_t_low", "difference_t_high"), np.full(one.shape[2], np.nan))
    found |= {
        name: np.nanmean(each, axis=(0, 1))
        for name, each in {"mean": one, "other_mean": other, **measured}.items()
    }
    for end, both in zip(("low", "high"), ends, strict=True):
        found |= {f"{name}_{end}": part for name, part in zip(measured, np.split(both, 2), strict=True)}
    if factors is not None:
        found |= _t_interval(one, other, clusters, factors, params.confidence)
    return found


def _t_interval(
    one: NDArray, other: NDArray, clusters: NDArray, factors: NDArray, confidence: float
) -> dict[str, Floats]:
    """Student's interval over trainings and prompts, of pairs or of two groups: the columns of both ends, each (R,)."""
    if factors.shape[1] == 1:
        sides = [one - other]
    else:
        firsts = (np.unique(column, return_index=True)[1] for column in factors.T)
        sides = [side[kept] for side, kept in zip((one, other), firsts, strict=True)]
    ends = [
        crossed_t_interval([_by_prompt(side[..., r], clusters) for side in sides], confidence)
        for r in range(one.shape[2])
    ]
    low, high = (np.concatenate(end) for end in zip(*ends, strict=True))
    return {"difference_t_low": low, "difference_t_high": high}


def _by_prompt(side: NDArray, clusters: NDArray) -> Floats:
    """Values (C, P, 1) of prompts from those (C, n) of their images, of which those of all trainings may be NaN.

    A prompt counts as often as it has images: its distance to the mean is scaled, which leaves the mean what it is.
    """
    kept = ~np.isnan(side[0])
    _, codes, counts = np.unique(clusters[kept], return_inverse=True, return_counts=True)
    mean = side[:, kept].mean()
    sums = np.stack([np.bincount(codes, weights=row - mean, minlength=len(counts)) for row in side[:, kept]])
    return (mean + sums / counts.mean())[..., None]
