"""Public preference data and prompt sets, read as streams from a local copy or from the hub at a pinned revision.

`open_dataset("pickapic:hf:yuvalkirstain/pickapic_v2@COMMIT/train").comparisons()` reads nothing but the columns that
it needs, in ranges; nothing is kept on disk. docs/DATASETS.md lists the names, the files that each reads and their
columns.
"""

from __future__ import annotations

from tgo_pipeline.datasets.address import FORM, resolve
from tgo_pipeline.datasets.base import Dataset
from tgo_pipeline.datasets.diffusion_kto import DiffusionKTO
from tgo_pipeline.datasets.hpdv2 import HPDv2
from tgo_pipeline.datasets.hpdv3 import HPDv3
from tgo_pipeline.datasets.imagerewarddb import ImageRewardDB
from tgo_pipeline.datasets.pickapic import PickAPic
from tgo_pipeline.datasets.prompt_sets import HPDv2Prompts, PartiPrompts, VidProM
from tgo_pipeline.errors import TgoError

__all__ = ["NAMES", "READERS", "Dataset", "is_dataset", "open_dataset"]
READERS: dict[str, type[Dataset]] = {
    "pickapic": PickAPic,
    "hpdv2": HPDv2,
    "hpdv3": HPDv3,
    "imagerewarddb": ImageRewardDB,
    "diffusion-kto": DiffusionKTO,
    "parti": PartiPrompts,
    "hpdv2-prompts": HPDv2Prompts,
    "vidprom": VidProM,
}
"""The reader of every name that an address may begin with."""

NAMES = f"NAME:WHERE, NAME being one of {', '.join(READERS)}"
"""How an address looks, for messages."""


def is_dataset(text: str) -> bool:
    """Whether `text` begins as the address of a data set does, with a known name and a colon."""
    name, colon, _ = text.partition(":")
    return bool(colon) and name in READERS


def open_dataset(address: str) -> Dataset:
    """The data set at an address `<name>:<where>`; no row is read yet.

    Raises `TgoError` if the name is not known, a local place does not exist, or a hub revision is missing or may move.
    """
    name, _, where = address.partition(":")
    if not is_dataset(address):
        raise TgoError(
            f"{address!r} names no data set: write {FORM}, NAME being one of {', '.join(READERS)}."
        )
    reader = READERS[name]
    return reader(address, *resolve(address, where, reader.markers))
