"""What is in a folder that a stage wrote, and its tables written again as the stage would write them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from tgo_pipeline.storage.digests import sidecar
from tgo_pipeline.storage.tables import write_table
from tgo_pipeline.storage.writing import atomic


def rewrite(table: pa.Table, path: Path, metadata: Mapping[str, Any]) -> None:
    """Replace a table and its digest."""
    with atomic(path) as temporary:
        write_table(table, temporary, metadata)


def forget_digest(path: Path) -> None:
    """Make a file one of before there were digests, or of another tool."""
    sidecar(path).unlink(missing_ok=True)


def shown(folder: Path) -> list[str]:
    """The names in a folder that are not hidden."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
