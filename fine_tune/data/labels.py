"""The labels that training reads, and what is wrong with those it cannot use."""

from __future__ import annotations

import functools
import hashlib
import itertools
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from fine_tune.data.texts import Texts, release
from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.paths import parquet_files

NEGATIVE, POSITIVE = 0, 1
BOTH = frozenset((NEGATIVE, POSITIVE))

NUMBERS = ("label", "weight", "score", "relative_score")
COLUMNS = ("sample_id", "prompt_id", *NUMBERS)


@dataclass(frozen=True, eq=False)
class Labels:
    """Samples in the order of their ids; every array has one entry for each. Equal to itself alone, as a key too."""

    sample_ids: Texts
    prompt_ids: Texts
    label: np.ndarray
    """1 for positive, 0 for negative; an objective may soften it."""
    weight: np.ndarray
    score: np.ndarray
    """The target score."""
    relative_score: np.ndarray
    """The score minus tau."""

    def __len__(self) -> int:
        return len(self.sample_ids)

    @property
    def positive(self) -> np.ndarray:
        """Which samples are positive; a soft label counts for the side that it is nearer to."""
        return self.label >= 0.5

    @functools.cached_property
    def fingerprint(self) -> str:
        """Changes with any id or number."""
        digest = hashlib.sha256()
        between = [b"\n"] if len(self) else []
        for lines in itertools.chain(self.sample_ids.lines(), between, self.prompt_ids.lines()):
            digest.update(lines)
        for values in (self.label, self.weight, self.score, self.relative_score):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()[:16]

    def only(self, sides: Collection[int]) -> Labels:
        """The samples of these labels. Raises `TgoError` if one of the sides is empty."""
        for side in sorted(sides):
            if not np.any(self.label == side):
                raise TgoError(_empty_side(side, len(self)))
        chosen = np.isin(self.label, list(sides))
        return self if chosen.all() else self.take(np.flatnonzero(chosen))

    def take(self, rows: np.ndarray) -> Labels:
        """These samples, in this order."""
        return Labels(
            self.sample_ids.take(rows),
            self.prompt_ids.take(rows),
            self.label[rows],
            self.weight[rows],
            self.score[rows],
            self.relative_score[rows],
        )

    def weighted(self, weight: np.ndarray) -> Labels:
        """The same samples with other weights."""
        return replace(self, weight=weight)

    def scored(self, score: np.ndarray) -> Labels:
        """The same samples with other scores."""
        return replace(self, score=score)

    def labelled(self, label: np.ndarray) -> Labels:
        """The same samples with other labels."""
        return replace(self, label=label)


def _empty_side(side: int, samples: int) -> str:
    name, direction = ("negative", "Raise") if side == NEGATIVE else ("positive", "Lower")
    return (
        f"none of the {samples} labelled samples is {name}, so there is nothing to learn from on that side. "
        f"{direction} threshold.percentile, or look at the scores with `tgo thresholds`."
    )


def read_labels(folder: Path) -> Labels:
    """Read all label shards. Raises `TgoError` if there are none, a sample has two labels, or a number is bad."""
    from tgo_pipeline.storage.tables import LABELS, check_schema, read_columns, read_schema

    files = parquet_files(folder)
    if not files:
        raise TgoError(f"{folder} holds no label shard: run the label stage first.")
    for file in files:
        check_schema(read_schema(file), LABELS, file, COLUMNS)
    table = read_columns(files, COLUMNS, ["prompt_id"])
    numbers = [table[name].to_numpy() for name in NUMBERS]
    labels = Labels(Texts(table["sample_id"]), Texts(table["prompt_id"]), *numbers)
    del table, numbers
    labels = labels.take(labels.sample_ids.order())
    release()
    _check(labels, folder)
    return labels


def _check(labels: Labels, folder: Path) -> None:
    if labels.sample_ids.missing or labels.prompt_ids.missing:
        raise TgoError(f"{folder} holds rows without a sample_id or prompt_id: run the label stage again.")
    repeated = labels.sample_ids.repeated()
    if repeated is not None:
        raise TgoError(f"{folder} labels sample {repeated} twice: run the label stage again.")
    if not np.isfinite(labels.weight).all() or (labels.weight < 0).any():
        raise TgoError(f"{folder} holds weights that are negative or not finite: run the label stage again.")
    if not (np.isfinite(labels.score).all() and np.isfinite(labels.relative_score).all()):
        raise TgoError(f"{folder} holds scores that are missing or not finite: run the label stage again.")
