"""HPDv3: pairs of images of which the first is preferred, and benchmark prompts by category (`MizzenAI/HPDv3`).

`train.json` and `test.json` have one pair a record; `benchmark/benchmark_<Category>.json` have prompts. The images are
in parts of one archive.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from tgo_pipeline.datasets.image_files import ImageFiles
from tgo_pipeline.datasets.schemas import COMPARISONS, PROMPT_ROWS
from tgo_pipeline.datasets.splits import json_of_split
from tgo_pipeline.errors import TgoError
from tgo_pipeline.reading import text

if TYPE_CHECKING:
    import pyarrow as pa

PAIR = ("prompt", "path1", "path2", "model1", "model2")
BENCHMARK = "benchmark"


class HPDv3(ImageFiles):
    """Comparisons, and images where the archive is unpacked; of the split `benchmark` prompts alone."""

    title = "HPDv3"
    markers = ("train.json", "test.json")
    how_to_get = (
        "Download images.tar.gz.* of MizzenAI/HPDv3, unpack them with `cat images.tar.gz.* | gunzip | tar -xv` beside "
        "train.json and test.json, and name that folder."
    )

    def files(self) -> list[str]:
        return self._files

    def prompts(self) -> Iterator[pa.RecordBatch]:
        rows = self._benchmark() if self._is_benchmark else ({"prompt": r["prompt"]} for r in self._records())
        return self._batches(rows, PROMPT_ROWS)

    def comparisons(self) -> Iterator[pa.RecordBatch]:
        return self._batches(map(_comparison, self._records()), COMPARISONS)

    def _rows(self) -> Iterator[Mapping[str, Any]]:
        for record in self._records():
            for side in "12":
                uid, model = record[f"path{side}"], record[f"model{side}"]
                yield {"image_uid": uid, "prompt": record["prompt"], "model": model}

    @property
    def _is_benchmark(self) -> bool:
        return PurePosixPath(self._files[0]).name.startswith(f"{BENCHMARK}_")

    @cached_property
    def _files(self) -> list[str]:
        lists = self.place.find(f"{BENCHMARK}_*.json", f"{BENCHMARK}/{BENCHMARK}_*.json")
        if self.split != BENCHMARK and (self.split or not lists or self.place.find(*self.markers)):
            return [json_of_split(self.address, self.place, self.split, ("train", "test"))]
        if not lists:
            raise TgoError(
                f"{self.address}: {self.place.name} has no {BENCHMARK}/{BENCHMARK}_<Category>.json."
            )
        return lists

    def _records(self) -> Iterator[Mapping[str, Any]]:
        if self._is_benchmark:
            raise self._lacks("images or comparisons in its benchmark")
        return text.records(self.place, self._files[0], PAIR)

    def _benchmark(self) -> Iterator[Mapping[str, Any]]:
        for name in self._files:
            category = PurePosixPath(name).stem.removeprefix(f"{BENCHMARK}_")
            for record in text.records(self.place, name, ["prompt"]):
                yield {"prompt": record["prompt"], "category": category}


def _comparison(record: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "prompt": record["prompt"],
        "image_0_uid": record["path1"],
        "image_1_uid": record["path2"],
        "label_0": 1.0,
        "label_1": 0.0,
        "model_0": record["model1"],
        "model_1": record["model2"],
    }
