"""HPDv2: comparisons of images of nine generators and photographs (Wu et al. 2023, `ymhao/HPDv2`).

`train.json` has pairs; `test.json` has nine images a prompt, ranked by about ten people each. The images are in
archives.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from tgo_pipeline.datasets.image_files import ImageFiles, pairs
from tgo_pipeline.datasets.schemas import COMPARISONS, PROMPT_ROWS
from tgo_pipeline.datasets.splits import json_of_split
from tgo_pipeline.errors import TgoError
from tgo_pipeline.reading import text
from tgo_pipeline.reading.parquet import require

if TYPE_CHECKING:
    import pyarrow as pa

TRAIN = ("prompt", "file_path", "human_preference")
TEST = ("prompt", "image_path", "rank")
KINDS: Mapping[str, tuple[str, type | tuple[type, ...]]] = {
    "file_path": ("text", str),
    "image_path": ("text", str),
    "human_preference": ("numbers", (int, float)),
    "rank": ("numbers", (int, float)),
    "raw_annotations": ("objects", dict),
}
"""What the lists of a record hold."""


class HPDv2(ImageFiles):
    """Comparisons, and images where the archives are unpacked."""

    title = "HPDv2"
    markers = ("train.json", "test.json")
    how_to_get = (
        "Download the archives of ymhao/HPDv2, unpack them into one folder with train.json and test.json, and name "
        "that folder."
    )

    @property
    def folders(self) -> Sequence[str]:
        split = "test" if self._is_test else "train"
        return "", split, "images", f"images/{split}"

    def files(self) -> list[str]:
        return [self._file]

    def prompts(self) -> Iterator[pa.RecordBatch]:
        return self._batches(({"prompt": record["prompt"]} for record in self._records()), PROMPT_ROWS)

    def comparisons(self) -> Iterator[pa.RecordBatch]:
        return self._batches(
            (row for record in self._records() for row in self._compared(record)), COMPARISONS
        )

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        column = "image_path" if self._is_test else "file_path"
        for record in self._records():
            for name in self._list(record, column):
                yield {"image_uid": name, "prompt": record["prompt"]}

    @cached_property
    def _file(self) -> str:
        return json_of_split(self.address, self.place, self.split, ("train", "test"))

    @property
    def _is_test(self) -> bool:
        return self._file.rsplit("/", 1)[-1].startswith("test")

    def _records(self) -> Iterator[Mapping[str, Any]]:
        return text.records(self.place, self._file, TEST if self._is_test else TRAIN)

    def _compared(self, record: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        for rater, names, values in self._choices(record):
            if len(names) != len(values):
                raise TgoError(
                    f"{self.place.where(self._file)}: {record['prompt']!r} has {len(names)} images and {len(values)} "
                    "ranks or preferences."
                )
            yield from (row | {"prompt": record["prompt"], "rater": rater} for row in pairs(names, values))

    def _choices(self, record: Mapping[str, Any]) -> Iterator[tuple[str | None, list[str], list[float]]]:
        """Rater, images, and a value for each: the higher, the better. Rank 1 is the best."""
        if not self._is_test:
            yield None, self._list(record, "file_path"), self._list(record, "human_preference")
            return
        names = self._list(record, "image_path")
        if not record.get("raw_annotations"):
            yield None, names, [-rank for rank in self._list(record, "rank")]
            return
        for annotation in self._list(record, "raw_annotations"):
            require(
                f"{self.place.where(self._file)}, raw_annotations", ("rank", "user_hash"), list(annotation)
            )
            yield annotation["user_hash"], names, [-rank for rank in self._list(annotation, "rank")]

    def _list(self, record: Mapping[str, Any], key: str) -> list[Any]:
        value, (what, kind) = record[key], KINDS[key]
        if not isinstance(value, list) or not all(isinstance(each, kind) for each in value):
            raise TgoError(
                f"{self.place.where(self._file)}: {key!r} is {value!r}: it must be a list of {what}."
            )
        return value
