"""The image of a model card: base model above, tuned model below, for a random draw of test prompts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from tgo_pipeline.formats.video_files import still
from tgo_pipeline.report.clips import ShownClip
from tgo_pipeline.report.thumbnails import read_images
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.sharing.facts import shards
from tgo_pipeline.storage.tables import read_table
from tgo_pipeline.storage.workspace import Workspace

COLUMNS, SIDE, GAP = 8, 192, 4
"""Images in a row, the pixels of their side and those between them: 1,564 pixels in all."""


@dataclass(frozen=True)
class Grid:
    """The prompts of the columns, from left to right, and the image."""

    prompts: list[str]
    image: Image.Image


def before_after(workspace: Workspace, seed: int) -> Grid | None:
    """Pairs of images that no one chose, for as many different prompts; None if the evaluation has no images."""
    import numpy as np

    sides = [workspace.side(name, "generations") for name in ("base", "tuned")]
    common = sorted(set.intersection(*(_first_samples(side) for side in sides)))
    if not common:
        return None
    order = np.random.default_rng(derive_seed(seed, "card", "before_after")).permutation(len(common))
    chosen = [common[place] for place in order[:COLUMNS].tolist()]
    found = [read_images(side, chosen) for side in sides]
    readable = [each for each in chosen if all(_decode(side[each][1]) for side in found)]
    if not readable:
        return None
    rows = [[_decode(side[each][1]) for each in readable] for side in found]
    return Grid([found[0][each][0] for each in readable], _paste(rows))


def _first_samples(side: Path) -> set[str]:
    """The first image of every prompt."""
    first: dict[str, str] = {}
    for path in shards(side):
        for row in read_table(path, columns=["sample_id", "prompt_id"]).to_pylist():
            first.setdefault(row["prompt_id"], row["sample_id"])
    return set(first.values())


def _decode(data: bytes | ShownClip | None) -> Image.Image | None:
    """An image (of a clip, its middle frame) at the size of the grid.

    Small ones are enlarged in whole steps, with their pixels to be seen.
    """
    from tgo_pipeline.rewards.engine.decode import UnreadableImage, decode

    found = still(data.data) if isinstance(data, ShownClip) else data
    if not found:
        return None
    try:
        image = decode(found)
    except UnreadableImage:
        return None
    longest = max(image.size)
    scale = SIDE // longest if longest <= SIDE else SIDE / longest
    method = Image.Resampling.NEAREST if longest <= SIDE else Image.Resampling.LANCZOS
    return image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))), method)


def _paste(rows: Sequence[Sequence[Image.Image | None]]) -> Image.Image:
    canvas = Image.new("RGB", (len(rows[0]) * (SIDE + GAP) - GAP, len(rows) * (SIDE + GAP) - GAP), "white")
    for row, images in enumerate(rows):
        for column, image in enumerate(images):
            if image is not None:
                left = column * (SIDE + GAP) + (SIDE - image.width) // 2
                canvas.paste(image, (left, row * (SIDE + GAP) + (SIDE - image.height) // 2))
    return canvas
