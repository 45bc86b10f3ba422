"""What the score shards hold, as the metrics of the score stage."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from tgo_pipeline.storage.writing import atomic

if TYPE_CHECKING:
    import polars as pl


def write_metrics(
    path: Path, scores: Path, columns: Sequence[str], counts: Mapping[str, Mapping[str, int]]
) -> None:
    """Write per column how many samples have a score (`n`) and have none (`null`), and the mean score.

    For a column of feedback also what was counted in its source (`counts`).
    """
    from tgo_pipeline.storage.tables import read_folder

    frame = read_folder(scores, list(columns))
    content = {name: {**_numbers(frame[name]), **counts.get(name, {})} for name in columns}
    with atomic(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2) + "\n")


def _numbers(column: pl.Series) -> dict[str, float]:
    import polars as pl

    known = column.drop_nulls().cast(pl.Float64)
    mean = {"mean": float(known.mean())} if len(known) else {}  # type: ignore[arg-type]
    return {"n": len(known), "null": column.null_count(), **mean}
