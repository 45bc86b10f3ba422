"""Images drawn while training: the same prompts and seeds every time, side by side in one file."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from fine_tune.training.log import image_path
from tgo_pipeline.generators.sample import Sampler
from tgo_pipeline.params import GenerateParams
from tgo_pipeline.seeds import derive_seed
from tgo_pipeline.storage.writing import atomic


class Validation:
    """Draws (prompt_id, prompt) pairs with the pipeline that holds the network in training.

    `hints` are the objective's `sampling`, so that the images are those that the result will give.
    """

    def __init__(
        self,
        pipeline: Any,
        prompts: Sequence[tuple[str, str]],
        params: GenerateParams,
        *,
        folder: Path,
        seed: int,
        batch_size: int,
        hints: Mapping[str, str],
        writes: bool = True,
    ) -> None:
        """Without `writes` images are drawn alone: sharded weights need all processes to draw with them."""
        self._folder = folder
        self._writes = writes
        self._sampler = Sampler(pipeline, params, batch_size, hints)
        self._prompts = [prompt for _, prompt in prompts]
        self._seeds = [derive_seed(seed, prompt_id, "validation") for prompt_id, _ in prompts]

    def read(self) -> None:
        """Let the text encoders read the prompts (`Sampler.read`)."""
        self._sampler.read(self._prompts)

    def draw(self, step: int) -> Path | None:
        """Write the grid of all prompts after `step` updates to `images/step-00050.png`; where, if this writes."""
        drawn = grid([_still(each) for each in self._sampler.images(self._prompts, self._seeds)])
        if not self._writes:
            return None
        path = image_path(self._folder, step)
        with atomic(path) as temporary:
            drawn.save(temporary, "PNG")
        return path


def _still(drawn: Any) -> Image.Image:
    """An image, or the middle frame of a clip (T, H, W, 3)."""
    return drawn if isinstance(drawn, Image.Image) else Image.fromarray(drawn[len(drawn) // 2])


def grid(images: Sequence[Image.Image]) -> Image.Image:
    """Put images of one size into a nearly square grid, row by row."""
    columns = math.ceil(math.sqrt(len(images)))
    width, height = images[0].size
    canvas = Image.new("RGB", (columns * width, math.ceil(len(images) / columns) * height), "white")
    for number, image in enumerate(images):
        row, column = divmod(number, columns)
        canvas.paste(image, (column * width, row * height))
    return canvas
