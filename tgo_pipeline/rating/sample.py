"""A sample of the images as files, with a table to fill in, for people who rate with other tools."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from tgo_pipeline.errors import TgoError
from tgo_pipeline.rating.gallery import RatableImage, as_png, read
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.storage.paths import file_name
from tgo_pipeline.storage.writing import atomic_folder

TEMPLATE = "ratings.csv"
IMAGES = "images"
COLUMNS = ("sample_id", "prompt", "file", "rating")
KINDS = {b"\x89PNG\r\n\x1a\n": ".png", b"\xff\xd8\xff": ".jpg"}


def drawn(images: Sequence[RatableImage], count: int, seed: int) -> list[RatableImage]:
    """`count` of the images by chance, in a random order; all of them if there are no more."""
    chance = np.random.default_rng(derive_seed(seed, "images", "export"))
    return [images[place] for place in chance.permutation(len(images))[:count]]


def write(folder: Path, images: Sequence[RatableImage]) -> None:
    """Write `folder` with the images in `images/` and `ratings.csv`, whose column `rating` is empty.

    PNG and JPEG files are copied as they are, others become PNG. Raises `TgoError` if the folder holds something.
    """
    if folder.is_file() or (folder.is_dir() and any(folder.iterdir())):
        raise TgoError(f"{folder} is there already: name another folder (--to FOLDER), or remove it.")
    with atomic_folder(folder, checked=False) as temporary:
        (temporary / IMAGES).mkdir()
        with (temporary / TEMPLATE).open("w", newline="", encoding="utf-8") as stream:
            table = csv.writer(stream)
            table.writerow(COLUMNS)
            for image in images:
                data = read(image)
                suffix = next((suffix for start, suffix in KINDS.items() if data.startswith(start)), None)
                file = Path(IMAGES) / (file_name(image.name) + (suffix or ".png"))
                (temporary / file).write_bytes(data if suffix else as_png(data, image.name))
                table.writerow([image.name, image.prompt or "", file.as_posix(), ""])
