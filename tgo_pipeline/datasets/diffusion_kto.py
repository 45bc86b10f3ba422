"""Pick-a-Pic as single labelled images: the csv that Diffusion-KTO was trained from (Li et al. 2024).

`train_processed_v3.csv` of `jacklishufan/pick-a-pick-kto-processed` names the files of Pick-a-Pic's images, which its
owner saves below the same folder (`train/<uid>.jpg`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tgo_pipeline.datasets.image_files import ImageFiles
from tgo_pipeline.datasets.schemas import PROMPT_ROWS, RATINGS
from tgo_pipeline.errors import TgoError
from tgo_pipeline.reading.tables import CsvTable, Record

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("file_name", "caption", "split")
VALUES = {"exclusive_win": 1.0, "intersections": 0.5, "exclusive_lose": 0.0}
"""Images that only won, both won and lost, and only lost. The paper's rule counts the second as desirable: >= 0.5."""


class DiffusionKTO(ImageFiles):
    """Ratings of 1, 0.5 and 0, and images where they are beside the csv."""

    title = "the Diffusion-KTO csv"
    markers = ("*_processed_v3.csv",)
    how_to_get = (
        "Save the images of Pick-a-Pic below the csv's folder under the names of its column file_name, and name that "
        "folder."
    )

    def files(self) -> list[str]:
        return [self._file]

    def prompts(self) -> Iterator[pa.RecordBatch]:
        return self._batches(({"prompt": prompt} for _, prompt, _ in self._table()), PROMPT_ROWS)

    def ratings(self) -> Iterator[pa.RecordBatch]:
        rows = (
            {"image_uid": name, "prompt": prompt, "value": self._value(label)}
            for name, prompt, label in self._table()
        )
        return self._batches(rows, RATINGS)

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        return ({"image_uid": name, "prompt": prompt} for name, prompt, _ in self._table())

    @cached_property
    def _file(self) -> str:
        name = f"{self.split or 'train'}_processed_v3.csv"
        found = self.place.find(name)
        if not found:
            raise TgoError(f"{self.address}: {self.place.name} has no {name}.")
        return found[0]

    def _table(self) -> Iterator[Record]:
        return CsvTable(self.place, self._file).rows(COLUMNS)

    def _value(self, label: str | None) -> float:
        if label not in VALUES:
            raise TgoError(
                f"{self.place.where(self._file)}: split is {label!r}: it must be one of {', '.join(VALUES)}."
            )
        return VALUES[label]
