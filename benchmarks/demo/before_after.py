"""What the small worlds' models draw: base above, tuned below, for a seeded random draw of test captions.

python -m benchmarks.demo.before_after PROJECT docs/before_after.png      # PROJECT holds data/evaluation
python -m benchmarks.demo.before_after PROJECT docs/moving.gif            # of clips: in motion
python -m benchmarks.demo.before_after PROJECT docs/moving.png --samples 4       # of clips: frame after frame
"""

import io
from pathlib import Path

import numpy as np
import polars as pl
import typer
from PIL import Image

from tgo_pipeline.formats.video_files import read_frames
from tgo_pipeline.storage.tables import read_folder

SCALE = 3
MOVING = (".gif", ".webp")


def main(project: Path, output: Path, samples: int = 18, seed: int = 0) -> None:
    """Draw pairs without looking at them, and write both sides, three times enlarged."""
    sides = [read_folder(project / "data/evaluation" / side / "generations") for side in ("base", "tuned")]
    every = sides[0].sort("sample_id")["sample_id"].to_list()
    chosen = [
        every[place] for place in np.random.default_rng(seed).choice(len(every), samples, replace=False)
    ]
    clips = np.array([[_frames(table, sample_id) for sample_id in chosen] for table in sides])
    output.parent.mkdir(parents=True, exist_ok=True)
    if output.suffix in MOVING:
        first, *others = [_grid(clips[:, :, frame]) for frame in range(clips.shape[2])]
        duration = round(1000 / sides[0]["fps"][0])
        first.save(output, save_all=True, append_images=others, duration=duration, loop=0)
    elif clips.shape[2] == 1:
        _grid(clips[:, :, 0]).save(output, optimize=True)
    else:  # two lines a sample
        _grid(clips.swapaxes(0, 1).reshape(-1, *clips.shape[2:])).save(output, optimize=True)


def _grid(images: np.ndarray) -> Image.Image:
    """Rows of images, (R, N, H, W, 3), as one."""
    image = Image.fromarray(np.vstack([np.hstack(row) for row in images]))
    return image.resize((image.width * SCALE, image.height * SCALE), Image.Resampling.NEAREST)


def _frames(table: pl.DataFrame, sample_id: str) -> np.ndarray:
    """The frames of a sample, (T, H, W, 3); an image is one."""
    row = table.row(by_predicate=pl.col("sample_id") == sample_id, named=True)
    if "video" in row:
        return read_frames(row["video"]["bytes"])[0]
    return np.asarray(Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB"))[None]


if __name__ == "__main__":
    typer.run(main)
