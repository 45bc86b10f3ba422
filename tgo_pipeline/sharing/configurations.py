"""`dataset_info` and `configs` of a data-set card: features, splits and sizes, from the footers of the real shards."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats import json_text
from tgo_pipeline.sharing.facts import shards
from tgo_pipeline.storage.paths import SHARD_NAME
from tgo_pipeline.storage.project import first_run
from tgo_pipeline.storage.tables import read_schema


@dataclass(frozen=True)
class Split:
    """The shards of one split: rows, bytes of the data without compression, and bytes of the files."""

    name: str
    examples: int
    data_bytes: int
    file_bytes: int


@dataclass(frozen=True)
class Configuration:
    """A folder of shards as one configuration of the data set."""

    name: str
    features: dict[str, Any]
    splits: list[Split]

    @property
    def examples(self) -> int:
        """Rows of all splits."""
        return sum(split.examples for split in self.splits)

    @property
    def types(self) -> dict[str, str]:
        """The type of each column in words."""
        return {name: _type(feature) for name, feature in self.features.items()}

    def info(self) -> dict[str, Any]:
        """Its entry of `dataset_info`."""
        return {
            "config_name": self.name,
            "features": [{"name": name, **_entry(each)} for name, each in self.features.items()],
            "splits": [
                {"name": split.name, "num_bytes": split.data_bytes, "num_examples": split.examples}
                for split in self.splits
            ],
            "download_size": sum(split.file_bytes for split in self.splits),
            "dataset_size": sum(split.data_bytes for split in self.splits),
        }

    def files(self, default: bool) -> dict[str, Any]:
        """Its entry of `configs`: where the files of each split are."""
        entry: dict[str, Any] = {
            "config_name": self.name,
            "data_files": [
                {"split": split.name, "path": f"{self.name}/{split.name}-*.parquet"} for split in self.splits
            ],
        }
        return {**entry, "default": True} if default else entry


def read_configuration(name: str, folder: Path) -> Configuration:
    """Read the footers of a folder's shards. Raises `TgoError` if there are none, or they do not fit together."""
    files = shards(folder)
    if not files:
        raise TgoError(f"{folder} holds no Parquet shard: {first_run(folder)}.")
    features: dict[str, Any] = {}
    splits: dict[str, Split] = {}
    for path in files:
        found = _features(path)  # it is Parquet
        metadata = pq.read_metadata(path)
        if features and found != features:
            raise TgoError(
                f"{path} has other columns than {files[0].name}: run the stage that writes {folder} again."
            )
        features = found
        groups = (metadata.row_group(index) for index in range(metadata.num_row_groups))
        size = sum(group.total_byte_size for group in groups)
        split = _split(path)
        before = splits.get(split, Split(split, 0, 0, 0))
        splits[split] = Split(
            split,
            before.examples + metadata.num_rows,
            before.data_bytes + size,
            before.file_bytes + path.stat().st_size,
        )
    return Configuration(name, features, list(splits.values()))


def _split(path: Path) -> str:
    name = SHARD_NAME.fullmatch(path.name)
    if name is None:
        raise TgoError(f"{path} is not a shard: names are like train-00000-of-00004.parquet. Move it away.")
    return name["split"]


def _features(path: Path) -> dict[str, Any]:
    """The features that the file's schema carries for `datasets`."""
    metadata = read_schema(path).metadata or {}
    try:
        return json_text.loads(metadata[b"huggingface"], path)["info"]["features"]
    except (KeyError, TypeError) as error:
        raise TgoError(
            f"{path} says nothing of its features, so this project did not write it: run its stage again."
        ) from error


def _type(feature: Mapping[str, Any]) -> str:
    if feature["_type"] == "ClassLabel":
        return f"class label ({', '.join(feature['names'])})"
    return str(feature.get("dtype", feature["_type"].lower()))


def _entry(feature: dict[str, Any]) -> dict[str, Any]:
    """A feature as the YAML of a card has it: `dtype` for a value, an image, a clip or a class label; `list`."""
    kind = feature["_type"]
    if kind == "List":
        inner = _entry(feature["feature"])
        return {"list": inner["dtype"] if set(inner) == {"dtype"} else inner}
    if kind == "ClassLabel":
        names = {str(number): name for number, name in enumerate(feature["names"])}
        return {"dtype": {"class_label": {"names": names}}}
    return {"dtype": kind.lower() if kind in ("Image", "Video") else feature["dtype"]}
