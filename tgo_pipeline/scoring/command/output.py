"""The table that `tgo score` writes: a row per image with its prompt, a score for each reward, and the error."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from tgo_pipeline.storage.fingerprints import fingerprint
from tgo_pipeline.storage.tables import with_features

BESIDES = ("image", "prompt", "error")
"""Columns of the output besides the rewards."""


def schema(rewards: Sequence[str]) -> pa.Schema:
    """Schema of the output: the picture's name, its prompt, a nullable float32 column per reward, the error."""
    scores = [(name, pa.float32()) for name in rewards]
    return with_features(
        pa.schema([("image", pa.string()), ("prompt", pa.string()), *scores, ("error", pa.string())])
    )


def as_table(
    labels: Sequence[tuple[str, str | None]], columns: Mapping[str, Any], errors: Sequence[str | None]
) -> pa.Table:
    """Rows of the output: names and prompts, a score (NaN: none) for each reward, and why there is none.

    A reason stays only where a score is missing: it may be of a reward whose scores are new now.
    """
    scores = {name: _nullable(column) for name, column in columns.items()}
    missing = np.zeros(len(labels), dtype=bool)
    for column in scores.values():
        missing |= column.is_null().to_numpy(zero_copy_only=False)
    arrays = {"image": [image for image, _ in labels], "prompt": [prompt for _, prompt in labels]}
    reasons = [error if lacks else None for error, lacks in zip(errors, missing.tolist(), strict=True)]
    return pa.table({**arrays, **scores, "error": reasons}, schema=schema(list(columns)))


def _nullable(column: Any) -> pa.Array:
    """Scores that were computed have NaN where there is none; those of a table have a null there already."""
    if isinstance(column, pa.ChunkedArray):
        return column.combine_chunks()
    return pa.array(column, mask=np.isnan(column))


def labels_of(table: pa.Table) -> str:
    """What names and prompts a table has, row by row: whether its rows are where they were written."""
    return fingerprint(images=table["image"].to_pylist(), prompts=table["prompt"].to_pylist())


def with_rewards(table: pa.Table, rewards: Collection[str]) -> pa.Table:
    """The table with these of its rewards alone."""
    return table.select([name for name in table.column_names if name in BESIDES or name in rewards])


def images(count: int) -> str:
    """A number of images in words."""
    return f"{count:,} image{'s' * (count != 1)}"
