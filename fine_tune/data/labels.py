"""The labels that training reads, and what is wrong with those it cannot use."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.paths import parquet_files

NEGATIVE, POSITIVE = 0, 1
BOTH = frozenset((NEGATIVE, POSITIVE))

COLUMNS = ("sample_id", "prompt_id", "score", "relative_score", "label", "weight")


@dataclass(frozen=True, eq=False)
class Labels:
    """Samples in the order of their ids; every array has one entry for each. Equal to itself alone, as a key too."""

    sample_ids: list[str]
    prompt_ids: list[str]
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

    @property
    def fingerprint(self) -> str:
        """Changes with any id or number."""
        digest = hashlib.sha256("\n".join((*self.sample_ids, *self.prompt_ids)).encode())
        for values in (self.label, self.weight, self.score, self.relative_score):
            digest.update(np.ascontiguousarray(values).tobytes())
        return digest.hexdigest()[:16]

    def only(self, sides: Collection[int]) -> Labels:
        """The samples of these labels. Raises `TgoError` if one of the sides is empty."""
        for side in sorted(sides):
            if not np.any(self.label == side):
                raise TgoError(_empty_side(side, len(self)))
        return self.take(np.flatnonzero(np.isin(self.label, list(sides))))

    def take(self, rows: np.ndarray) -> Labels:
        """These samples, in this order."""
        return Labels(
            [self.sample_ids[i] for i in rows],
            [self.prompt_ids[i] for i in rows],
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
    import pyarrow as pa

    from tgo_pipeline.storage.tables import LABELS, read_table

    files = parquet_files(folder)
    if not files:
        raise TgoError(f"{folder} holds no label shard: run the label stage first.")
    parts = [read_table(file, LABELS, list(COLUMNS)) for file in files]
    table = pa.concat_tables(part.replace_schema_metadata() for part in parts).sort_by("sample_id")
    ids = table["sample_id"].to_pylist()
    repeated = next((a for a, b in itertools.pairwise(ids) if a == b), None)
    if repeated is not None:
        raise TgoError(f"{folder} labels sample {repeated} twice: run the label stage again.")
    weight, score, relative = (table[name].to_numpy() for name in ("weight", "score", "relative_score"))
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise TgoError(f"{folder} holds weights that are negative or not finite: run the label stage again.")
    if not (np.isfinite(score).all() and np.isfinite(relative).all()):
        raise TgoError(f"{folder} holds scores that are missing or not finite: run the label stage again.")
    return Labels(ids, table["prompt_id"].to_pylist(), table["label"].to_numpy(), weight, score, relative)
