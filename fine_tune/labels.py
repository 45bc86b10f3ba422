"""The labels that training reads, and what is wrong with those it cannot use."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fine_tune.objectives.base import NEGATIVE
from tgo_pipeline.errors import TgoError


@dataclass(frozen=True)
class Labels:
    """Samples in the order of their ids, with label (0 or 1) and weight."""

    sample_ids: list[str]
    label: np.ndarray
    weight: np.ndarray

    @property
    def fingerprint(self) -> str:
        """Changes with any id, label or weight."""
        digest = hashlib.sha256("\n".join(self.sample_ids).encode())
        digest.update(self.label.tobytes() + self.weight.tobytes())
        return digest.hexdigest()[:16]

    def only(self, sides: Collection[int]) -> Labels:
        """The samples of these labels. Raises `TgoError` if one of the sides is empty."""
        for side in sorted(sides):
            if not np.any(self.label == side):
                raise TgoError(_empty_side(side, len(self.sample_ids)))
        keep = np.flatnonzero(np.isin(self.label, list(sides)))
        return Labels([self.sample_ids[i] for i in keep], self.label[keep], self.weight[keep])


def _empty_side(side: int, samples: int) -> str:
    name, direction = ("negative", "Raise") if side == NEGATIVE else ("positive", "Lower")
    return (
        f"none of the {samples} labelled samples is {name}, so there is nothing to learn from on that side. "
        f"{direction} threshold.percentile, or look at the scores with `tgo thresholds`."
    )


def read_labels(folder: Path) -> Labels:
    """Read all label shards. Raises `TgoError` if there are none, a sample has two labels, or a weight is bad."""
    import pyarrow as pa

    from tgo_pipeline.tables import LABELS, read_table

    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise TgoError(f"{folder} holds no label shard: run the label stage first.")
    parts = [read_table(file, LABELS, ["sample_id", "label", "weight"]) for file in files]
    table = pa.concat_tables(part.replace_schema_metadata() for part in parts).sort_by("sample_id")
    ids = table["sample_id"].to_pylist()
    repeated = next((a for a, b in itertools.pairwise(ids) if a == b), None)
    if repeated is not None:
        raise TgoError(f"{folder} labels sample {repeated} twice: run the label stage again.")
    weight = table["weight"].to_numpy()
    if not np.isfinite(weight).all() or (weight < 0).any():
        raise TgoError(f"{folder} holds weights that are negative or not finite: run the label stage again.")
    return Labels(ids, table["label"].to_numpy(), weight)
