"""What work beside the network is worth: PNG while images are drawn, checkpoints while training goes on, hashes.

python -m benchmarks.beside

No network runs: drawing an image and an update are waits of a length that GPUs have, in which the processor is free.
The numbers say what a GPU would no longer wait for on a machine with this processor, not how fast a GPU is.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from benchmarks.results import RESULTS, described, hardware, replace_section, table
from benchmarks.rewards.inputs import png as photograph
from benchmarks.rewards.parent import write_shard
from fine_tune.training.checkpoints import Checkpoints, State
from tgo_pipeline.devices import cores
from tgo_pipeline.executors import never
from tgo_pipeline.executors.aside import Aside, ahead
from tgo_pipeline.generators import stage
from tgo_pipeline.generators.sample import png
from tgo_pipeline.images import Columns
from tgo_pipeline.images import open as open_images
from tgo_pipeline.params import GenerateParams
from tgo_pipeline.rewards.engine.images import open_image
from tgo_pipeline.scoring.command.run import HASHED_AHEAD, _keyed
from tgo_pipeline.storage.shards import Mark, Shard

IMAGES, BATCH, PIXELS, IMAGE_S = 128, 32, 512, 0.05
UPDATES, UPDATE_S, MB, EVERY = 12, 0.5, 512, 4
HASHED = 800


class Waiting:
    """A sampler whose images are there already, and take `IMAGE_S` of waiting each."""

    def __init__(self, images: Sequence[Image.Image]) -> None:
        self._images = images

    def batches(self, prompts: Sequence[str], seeds: Sequence[int], start: int) -> Iterator[Sequence[Any]]:
        """Batches of images."""
        for first in range(start, len(prompts), BATCH):
            time.sleep(IMAGE_S * BATCH)
            yield [self._images[row % len(self._images)] for row in range(first, first + BATCH)]


def drawing(folder: Path) -> tuple[float, float]:
    """Seconds of a shard with PNG in turn with the network, and beside it."""
    images = [open_image(photograph(index)).resize((PIXELS, PIXELS)) for index in range(8)]
    rows = [stage.PlannedImage(f"p-{row:04d}", "p", "a fox", row, row) for row in range(IMAGES)]
    sampler: Any = Waiting(images)

    def in_turn() -> None:
        for batch in sampler.batches(rows, rows, 0):
            for image in batch:
                png(image)

    def beside() -> None:
        source = stage.SamplingModel("demo", None, GenerateParams())
        with ThreadPoolExecutor(min(stage.MOST_ENCODERS, cores())) as encoders, Aside() as aside:
            shard = Shard("train", 0, 1, "benchmark")
            stage._draw(stage._Drawing(folder, shard, rows, source, encoders, None), sampler, aside, never)

    return _seconds(in_turn), _seconds(beside)


def training(folder: Path) -> tuple[float, float]:
    """Seconds of updates with checkpoints of `MB` in turn with them, and beside them; both copy what they write."""
    weights = {
        f"w{number}": torch.from_numpy(np.random.default_rng(number).random(MB * 2**15, np.float32))
        for number in range(8)
    }
    kept = Checkpoints(folder / "checkpoints", Mark("benchmark"))

    def run(aside: Aside | None) -> None:
        for step in range(1, UPDATES + 1):
            time.sleep(UPDATE_S)
            if step % EVERY:
                continue
            if aside is not None:
                aside.wait()
            state = State(step, {name: tensor.clone() for name, tensor in weights.items()}, {}, {})
            if aside is None:
                kept.save(state)
            else:
                aside.do(lambda state=state: kept.save(state))

    def beside() -> None:
        with Aside() as aside:
            run(aside)

    return _seconds(lambda: run(None)), _seconds(beside)


def hashing(folder: Path) -> tuple[float, float]:
    """Seconds for the keys of a table's images, by one thread and by as many as `tgo score` takes."""
    path = write_shard(folder / "images.parquet", [photograph(index) for index in range(8)], HASHED)
    (source,) = open_images([str(path)], Columns(None, None), set())
    rows = [(row, None) for row in source.rows(0, HASHED)]
    threads = min(4, cores())
    return _seconds(lambda: list(map(_keyed, rows))), _seconds(
        lambda: list(ahead(_keyed, rows, threads, HASHED_AHEAD))
    )


def _seconds(work: Callable[[], Any]) -> float:
    began_s = time.perf_counter()
    work()
    return time.perf_counter() - began_s


def main() -> None:
    """Measure, and write the section."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        found = {
            f"{IMAGES} images of {PIXELS} px, {IMAGE_S:g} s each, their PNG and their shard": (
                drawing(folder),
                IMAGES * IMAGE_S,
            ),
            f"{UPDATES} updates of {UPDATE_S:g} s, {UPDATES // EVERY} checkpoints of {MB} MiB": (
                training(folder),
                UPDATES * UPDATE_S,
            ),
            f"hashes of {HASHED} images in a table": (hashing(folder), 0.0),
        }
    rows = [
        [name, f"{in_turn:.2f}", f"**{beside:.2f}**", f"{network:.2f}" if network else ""]
        for name, ((in_turn, beside), network) in found.items()
    ]
    paragraphs = [
        "## Work beside the network",
        "Seconds. *In turn*: one after the other, as it was (images without their shard); *beside*: by threads. "
        "Networks are waits of the given length, in which the processor is free as it is beside a GPU: the last "
        "column is all that a GPU has to do (`python -m benchmarks.beside`).",
        described(hardware()),
        table(("work", "in turn", "beside", "network alone"), rows),
    ]
    replace_section(RESULTS, "beside", "\n\n".join(paragraphs))


if __name__ == "__main__":
    main()
