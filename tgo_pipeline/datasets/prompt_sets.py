"""Sets of prompts without images: PartiPrompts, the HPDv2 benchmark and VidProM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from tgo_pipeline.datasets.base import Dataset
from tgo_pipeline.datasets.schemas import PROMPT_ROWS
from tgo_pipeline.errors import TgoError
from tgo_pipeline.reading import text
from tgo_pipeline.reading.tables import CsvTable, ParquetTable, Record

if TYPE_CHECKING:
    import pyarrow as pa

STYLES = ("anime", "concept-art", "paintings", "photo")


class PartiPrompts(Dataset):
    """English prompts by category and challenge (Yu et al. 2022): `PartiPrompts.tsv` of `nateraw/parti-prompts`."""

    title = "PartiPrompts"
    markers = ("PartiPrompts.tsv", "data/train-*.parquet")

    def files(self) -> list[str]:
        return [self._file]

    def prompts(self) -> Iterator[pa.RecordBatch]:
        rows = _table(self, self._file, ("Prompt", "Category", "Challenge"))
        return self._batches((dict(zip(PROMPT_ROWS.names, row, strict=True)) for row in rows), PROMPT_ROWS)

    @cached_property
    def _file(self) -> str:
        if self.split not in (None, "train"):
            raise TgoError(f"{self.address}: {self.title} has no split {self.split!r}: leave it out.")
        return _one_of(self, *self.markers)


class HPDv2Prompts(Dataset):
    """The benchmark prompts of HPSv2 (Wu et al. 2023): one list a style in `benchmark/` of `zhwang/HPDv2`."""

    title = "the HPDv2 benchmark"
    markers = ("*.json", "benchmark/*.json")

    def files(self) -> list[str]:
        return self._files

    def prompts(self) -> Iterator[pa.RecordBatch]:
        return self._batches(self._rows(), PROMPT_ROWS)

    @cached_property
    def _files(self) -> list[str]:
        if self.split is not None and self.split not in STYLES:
            raise TgoError(
                f"{self.address}: there is no style {self.split!r}: it is one of {', '.join(STYLES)}, or none for all."
            )
        wanted = STYLES if self.split is None else (self.split,)
        if self.place.only is not None:
            return [self.place.only]
        return [_one_of(self, f"{style}.json", f"benchmark/{style}.json") for style in wanted]

    def _rows(self) -> Iterator[dict[str, str]]:
        for name in self._files:
            for number, prompt in enumerate(text.values(self.place, name)):
                if not isinstance(prompt, str):
                    raise TgoError(
                        f"{self.place.where(name)}, record {number} is {type(prompt).__name__}, not text: the file "
                        "must be a list of prompts."
                    )
                yield {"prompt": prompt, "category": PurePosixPath(name).stem}


class VidProM(Dataset):
    """Prompts of people for videos (Wang and Yang 2024): `VidProM_unique.csv` of `WenhaoWang/VidProM`.

    The split `semantic_unique` names the smaller file without near repetitions.
    """

    title = "VidProM"
    markers = ("VidProM_*",)

    def files(self) -> list[str]:
        return [self._file]

    def prompts(self) -> Iterator[pa.RecordBatch]:
        rows = _table(self, self._file, ("prompt",))
        return self._batches(({"prompt": prompt} for (prompt,) in rows), PROMPT_ROWS)

    @cached_property
    def _file(self) -> str:
        stem = f"VidProM_{self.split or 'unique'}"
        return _one_of(self, f"{stem}.csv", f"{stem}.parquet")


def _one_of(dataset: Dataset, *patterns: str) -> str:
    found = dataset.place.find(*patterns)
    if not found:
        raise TgoError(f"{dataset.address}: {dataset.place.name} has no {' or '.join(patterns)}.")
    return found[0]


def _table(dataset: Dataset, name: str, columns: Sequence[str]) -> Iterator[Record]:
    if name.endswith(".parquet"):
        return ParquetTable(dataset.place, name).rows(columns)
    return CsvTable(dataset.place, name).rows(columns)
