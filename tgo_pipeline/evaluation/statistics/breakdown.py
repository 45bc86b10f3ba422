"""What an evaluation is broken down by: everything, each test set, and each category and challenge of a test set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from tgo_pipeline.errors import TgoError
from tgo_pipeline.evaluation.statistics.scores import ALL, ModelScores

CELL_FIELDS = [
    pa.field("test_set", pa.string(), nullable=False),
    pa.field("grouping", pa.string()),
    pa.field("category", pa.string()),
]
"""What names a cell: `category` is null for a whole test set, else `grouping` says what kind of name it is."""


@dataclass(frozen=True)
class SampleSubset:
    """A part of the samples; `chosen` (N,) says which."""

    test_set: str
    grouping: str | None
    category: str | None
    chosen: NDArray[np.bool_]

    @property
    def names(self) -> dict[str, str | None]:
        """The columns that name this subset in a table."""
        return {"test_set": self.test_set, "grouping": self.grouping, "category": self.category}


def cells(scores: ModelScores) -> Iterator[SampleSubset]:
    """Everything, then each test set followed by its categories and challenges, in the order of the samples.

    Raises `TgoError` if a test set has the name of everything together.
    """
    sets = dict.fromkeys(scores.test_sets.tolist())
    if ALL in sets:
        raise TgoError(f"a test set is named {ALL!r}, which means all of them together: rename it.")
    yield SampleSubset(ALL, None, None, np.ones(len(scores.sample_ids), dtype=bool))
    for name in sets:
        chosen = scores.test_sets == name
        yield SampleSubset(name, None, None, chosen)
        for grouping, column in scores.groupings.items():
            for category in dict.fromkeys(column[chosen].tolist()):
                if category is not None:
                    yield SampleSubset(name, grouping, category, chosen & (column == category))
