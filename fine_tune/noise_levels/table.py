"""What was measured as a table: one row for each bin of levels, and the range that it suggests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage.tables import read_metadata, read_table, with_features, write_table
from tgo_pipeline.storage.writing import atomic

if TYPE_CHECKING:
    from fine_tune.noise_levels.statistics import Sketches
    from tgo_pipeline.storage.shards import Mark

SCHEMA = with_features(
    pa.schema(
        [
            ("low", pa.float64()),
            ("high", pa.float64()),
            ("cos2", pa.float64()),
            ("cos2_error", pa.float64()),
            ("norm", pa.float64()),
            ("unit_norm", pa.float64()),
            ("from_low_cos2", pa.float64()),
            ("from_low_cos2_error", pa.float64()),
            ("from_low_aim", pa.float64()),
            ("from_low_votes", pa.float64()),
        ]
    )
)
"""`norm` is the root mean square norm of a batch's gradient, `unit_norm` of one unit's; `from_low_...` are of the range
from `low` to 1: its aim is 1 where it is best, its votes are the share of bootstrap samples in which it is."""
CLEAR = 2.0
"""Standard errors above 0 from which on an aim is one: below, nothing speaks for any range, and it is all levels."""


@dataclass(frozen=True)
class Levels:
    """A measurement that is finished."""

    name: str
    """Of its file."""
    rows: list[dict[str, Any]]
    about: Mapping[str, Any]
    """`objective`, `batches`, `units` of a batch, `update` units that cos2 is stated for, `clarity`, `suggested`."""

    @property
    def suggested(self) -> list[float]:
        """The lowest and the highest level to train on."""
        return list(self.about["suggested"])

    @property
    def is_clear(self) -> bool:
        """Whether the signal could be told from noise; if not, all levels are suggested."""
        return self.about["clarity"] >= CLEAR

    @property
    def votes(self) -> float:
        """How often a bootstrap over batches suggests the same range."""
        return next(row["from_low_votes"] for row in self.rows if row["low"] == self.suggested[0])


def write(path: Path, mark: Mark, sketches: Sketches, edges: Sequence[float], objective: str) -> Levels:
    """Write the table whole."""
    if not sketches.whole.square.all():
        raise TgoError(
            f"the first update of {objective} has no gradient at some noise level, and nothing can be measured."
        )
    (alone, ranges), (alone_error, ranges_error) = sketches.cos2, sketches.cos2_error
    aims = sketches.aims(sketches.whole)
    norms, unit_norms = np.sqrt(sketches.whole.square), np.sqrt(sketches.whole.unit_square)
    columns = [edges[:-1], edges[1:], alone, alone_error, norms, unit_norms, ranges, ranges_error]
    columns += [aims / np.abs(aims).max(), sketches.votes]
    clarity = sketches.clarity
    about = {
        "objective": objective,
        "batches": sketches.batches,
        "units": sketches.measured,
        "update": sketches.update,
        "clarity": clarity,
        "suggested": [edges[sketches.best] if clarity >= CLEAR else 0.0, 1.0],
    }
    arrays = [pa.array(np.asarray(values, np.float64)) for values in columns]
    with atomic(path) as temporary:
        write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), temporary, {**mark.entries(), **about})
    return read(path)


def read(path: Path) -> Levels:
    """Raises `TgoError` if there is no such table."""
    rows = read_table(path, SCHEMA).to_pylist()
    needs = ("objective", "batches", "units", "update", "clarity", "suggested")
    return Levels(path.stem, rows, read_metadata(path, needs))


def find(path: Path, mark: Mark) -> Levels | None:
    """The measurement of this mark; None if there is none."""
    if not path.is_file() or not mark.fits(read_metadata(path)):
        return None
    return read(path)
