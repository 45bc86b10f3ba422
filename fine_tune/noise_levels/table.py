"""What was measured as a table, one row for each bin of levels, and the range that it suggests for a training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from fine_tune.noise_levels.statistics import net_signal
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
            ("cos2_resampled", pa.list_(pa.float64())),
        ]
    )
)
"""`norm` is the root mean square norm of a batch's gradient, `unit_norm` of one unit's; `cos2_resampled` are those of
bootstrap samples over batches, the same ones in all rows."""
CLEAR = 2.0
"""Standard errors above 0 from which on there is a signal: below, nothing speaks for a range, and it is all levels."""


@dataclass(frozen=True)
class Suggestion:
    """A range of levels to train on."""

    low: float
    net_signal: Sequence[float]
    """Of the range from each bin on."""
    net_error: Sequence[float]
    """Standard errors of the differences to the greatest."""
    votes: Sequence[float]
    """In which share of bootstrap samples each of them is the greatest."""
    best: tuple[float, float]
    """Between which levels the range of the greatest begins, in 95 % of bootstrap samples."""
    clarity: float
    """How many standard errors the mean cos2 of the suggested range is above 0."""

    @property
    def levels(self) -> list[float]:
        """The lowest and the highest level."""
        return [self.low, 1.0]

    @property
    def is_clear(self) -> bool:
        """Whether the signal could be told from noise; if not, all levels are suggested."""
        return self.clarity >= CLEAR


@dataclass(frozen=True)
class Levels:
    """A measurement that is finished."""

    name: str
    """Of its file."""
    rows: list[dict[str, Any]]
    about: Mapping[str, Any]
    """`objective`, `batches`, `units` of a batch, `update` units that cos2 is stated for."""

    def suggest(self, updates: int) -> Suggestion:
        """The widest range from which a training of so many updates accumulates as much signal less noise as from any.

        As much within one standard error: what the narrower ones seem to have more is then no reason to leave levels
        as they are.
        """
        lows = np.array([row["low"] for row in self.rows])
        cos2 = np.array([row["cos2"] for row in self.rows])
        resampled = np.array([row["cos2_resampled"] for row in self.rows]).T
        net, each = net_signal(cos2, updates), net_signal(resampled, updates)
        greatest = int(np.argmax(net))
        error = (each[:, [greatest]] - each).std(0, ddof=1)
        chosen = int(np.argmax(net[greatest] - net <= error))
        mean_error = resampled[:, chosen:].mean(-1).std(ddof=1)
        clarity = float(cos2[chosen:].mean() / mean_error) if mean_error else np.inf
        begins = np.argmax(each, -1)
        first, last = np.quantile(begins, (0.025, 0.975), method="closest_observation")
        return Suggestion(
            low=float(lows[chosen]) if clarity >= CLEAR else 0.0,
            net_signal=net.tolist(),
            net_error=error.tolist(),
            votes=(np.bincount(begins, minlength=len(lows)) / len(begins)).tolist(),
            best=(float(lows[first]), float(lows[last])),
            clarity=clarity,
        )


def write(path: Path, mark: Mark, sketches: Sketches, edges: Sequence[float], objective: str) -> Levels:
    """Write the table whole."""
    whole = sketches.whole
    if not whole.square.all():
        raise TgoError(
            f"the first update of {objective} has no gradient at some noise level, and nothing can be measured."
        )
    columns = [edges[:-1], edges[1:], sketches.cos2, sketches.cos2_error]
    columns += [np.sqrt(whole.square), np.sqrt(whole.unit_square), sketches.resampled.T]
    about = {
        "objective": objective,
        "batches": sketches.batches,
        "units": sketches.measured,
        "update": sketches.update,
    }
    arrays = [
        pa.array(np.asarray(values, np.float64).tolist(), field.type)
        for values, field in zip(columns, SCHEMA, strict=True)
    ]
    with atomic(path) as temporary:
        write_table(pa.Table.from_arrays(arrays, schema=SCHEMA), temporary, {**mark.entries(), **about})
    return read(path)


def read(path: Path) -> Levels:
    """Raises `TgoError` if there is no such table."""
    rows = read_table(path, SCHEMA).to_pylist()
    return Levels(path.stem, rows, read_metadata(path, ("objective", "batches", "units", "update")))


def find(path: Path, mark: Mark) -> Levels | None:
    """The measurement of this mark; None if there is none."""
    if not path.is_file() or not mark.fits(read_metadata(path)):
        return None
    return read(path)
