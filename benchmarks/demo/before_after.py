"""The strip of images in the README: base model above, tuned model below, for a seeded random draw of test captions.

python -m benchmarks.demo.before_after PROJECT docs/before_after.png      # PROJECT holds data/evaluation
"""

import io
from pathlib import Path

import numpy as np
import typer
from PIL import Image

from tgo_pipeline.storage.tables import read_folder

SCALE = 3


def strip(project: Path, output: Path, images: int = 18, seed: int = 0) -> None:
    """Draw `images` pairs without looking at them, and write both rows, three times enlarged."""
    sides = {
        side: read_folder(project / "data/evaluation" / side / "generations") for side in ("base", "tuned")
    }
    every = sides["base"].sort("sample_id")["sample_id"].to_list()
    chosen = [every[i] for i in np.random.default_rng(seed).choice(len(every), images, replace=False)]
    rows = [np.hstack([_pixels(table, sample_id) for sample_id in chosen]) for table in sides.values()]
    image = Image.fromarray(np.vstack(rows))
    output.parent.mkdir(parents=True, exist_ok=True)
    image.resize((image.width * SCALE, image.height * SCALE), Image.Resampling.NEAREST).save(
        output, optimize=True
    )


def _pixels(table, sample_id: str) -> np.ndarray:
    data = table.filter(table["sample_id"] == sample_id)["image"][0]["bytes"]
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


if __name__ == "__main__":
    typer.run(strip)
