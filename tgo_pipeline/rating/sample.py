"""A sample of the images as files, with a table to fill in, for people who rate with other tools."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tgo_pipeline.errors import TgoError
from tgo_pipeline.rating.gallery import RatableImage, shown
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.storage.paths import file_name
from tgo_pipeline.storage.writing import atomic_folder

TEMPLATE = "ratings.csv"
IMAGES = "images"
COLUMNS = ("sample_id", "prompt", "file", "rating")
SUFFIX = {"image/png": ".png", "image/jpeg": ".jpg", "video/mp4": ".mp4"}


def drawn(images: Sequence[RatableImage], count: int, seed: int) -> list[RatableImage]:
    """`count` of the images by chance, in a random order; all of them if there are no more."""
    chance = np.random.default_rng(derive_seed(seed, "images", "export"))
    return [images[place] for place in chance.permutation(len(images))[:count]]


def write(folder: Path, images: Sequence[RatableImage]) -> None:
    """Write `folder` with the images in `images/` and `ratings.csv`, whose column `rating` is empty.

    PNG and JPEG files are copied as they are, others become PNG, and clips small ones that browsers play. Raises
    `TgoError` if the folder holds something.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise TgoError(f"{folder} is there already: name another folder (--to FOLDER), or remove it.")
    with atomic_folder(folder, checked=False) as temporary:
        (temporary / IMAGES).mkdir()
        with (temporary / TEMPLATE).open("w", newline="", encoding="utf-8") as stream:
            table = csv.writer(stream)
            table.writerow(COLUMNS)
            for image in images:
                data, kind = shown(image)
                file = Path(IMAGES) / (file_name(image.name) + SUFFIX[kind])
                (temporary / file).write_bytes(data)
                table.writerow([image.name, image.prompt or "", file.as_posix(), ""])
