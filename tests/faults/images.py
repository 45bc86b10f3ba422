"""Images of every kind that Pillow writes, and a folder of them with prompts."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def write_images(folder: Path, count: int = 150) -> None:
    """`count` images of noise with prompts; one of them is broken."""
    folder.mkdir(parents=True)
    numbers = np.random.default_rng(0)
    rows = ["file_name,prompt"]
    for index in range(count):
        pixels = numbers.integers(0, 255, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{index:04d}.png")
        rows.append(f"{index:04d}.png,a thing of number {index}")
    (folder / "0007.png").write_bytes(b"broken")
    (folder / "metadata.csv").write_text("\n".join(rows) + "\n")
