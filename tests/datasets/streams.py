"""What the tests ask of a stream of batches."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pyarrow as pa


def rows(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> list[dict[str, Any]]:
    """All rows, after a look at the schema of every batch."""
    found = []
    for batch in batches:
        assert batch.schema.equals(schema)
        assert batch.num_rows > 0
        found.extend(batch.to_pylist())
    return found
