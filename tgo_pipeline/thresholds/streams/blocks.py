"""Rows of score shards, block by block, checked against their digests before the first one is read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.parquet_files import each, explained
from tgo_pipeline.formats.parquet_footer import chunks
from tgo_pipeline.storage.tables import RERUN, check_schema, open_parquet, row_count, scores_schema

BLOCK_ROWS = 1_000_000
"""Rows in memory at a time. Sums are of whole blocks, so that they do not depend on how shards cut the rows."""
NAMES = ("sample_id", "prompt_id")


def count_rows(files: Sequence[Path]) -> int:
    """Rows of all shards together, by their footers."""
    return sum(row_count(file) for file in files)


def require_rows(files: Sequence[Path]) -> None:
    """Raise `TgoError` if all shards together have none."""
    if not count_rows(files):
        raise TgoError(
            f"{files[0].parent} holds score shards without a single row: generate and score images first."
        )


def blocks(files: Sequence[Path], columns: Sequence[str]) -> Iterator[pa.Table]:
    """Tables of these columns, `sample_id` and `prompt_id` maybe among them, with `BLOCK_ROWS` rows each but the last.

    Raises `TgoError` for a damaged file, a wrong schema, and rows without an id.
    """
    waiting: list[pa.RecordBatch] = []
    for file in files:
        for batch in _batches(file, columns):
            waiting.append(batch)
            while sum(part.num_rows for part in waiting) >= BLOCK_ROWS:
                table = pa.Table.from_batches(waiting)
                yield table.slice(0, BLOCK_ROWS).combine_chunks()
                waiting = table.slice(BLOCK_ROWS).to_batches()
    if any(batch.num_rows for batch in waiting):
        yield pa.Table.from_batches(waiting).combine_chunks()


def _batches(path: Path, columns: Sequence[str]) -> Iterator[pa.RecordBatch]:
    rewards = [name for name in columns if name not in NAMES]
    with open_parquet(path) as file:
        check_schema(file.schema_arrow, scores_schema(rewards), path, [*NAMES, *rewards])
        for name in NAMES:
            _require_names(sum(chunk.nulls or 0 for chunk in chunks(path, name) or ()), name, path)
        for batch in each(file.iter_batches(BLOCK_ROWS, columns=list(columns)), path, RERUN):
            with explained(path, RERUN):
                batch.validate(full=True)  # text that is not UTF-8 would be found out anywhere later
            for name in set(NAMES).intersection(columns):  # of files without statistics
                _require_names(batch[name].null_count, name, path)
            yield batch.replace_schema_metadata()


def _require_names(nulls: int, name: str, path: Path) -> None:
    if nulls:
        raise TgoError(f"{path}: {nulls} rows have no {name}: run the score stage again.")


def numbers(table: pa.Table, name: str) -> np.ndarray:
    """One column of a block as float64 (N,), NaN where it is null or not finite."""
    values = table[name].to_numpy().astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    return values
