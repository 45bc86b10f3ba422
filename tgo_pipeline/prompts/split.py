"""The prompts of one split, as most that use them want them: ids and texts."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tgo_pipeline.storage.tables import PROMPTS, read_table


def read_split(path: Path, split: str) -> list[tuple[str, str]]:
    """Id and text of each prompt of a split in a table of prompts. Raises `TgoError` if it is none."""
    return of_split(read_table(path, PROMPTS), split)


def of_split(table: pa.Table, split: str) -> list[tuple[str, str]]:
    """Id and text of each prompt of a split, without dictionaries of the other columns on the way."""
    rows = table.filter(pc.field("split") == split).select(["prompt_id", "prompt"])
    return list(zip(*(column.to_pylist() for column in rows.columns), strict=True))
