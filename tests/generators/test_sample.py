"""An image depends on its prompt and seed, not on its batch; memory that runs out halves the batch."""

import io
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.generators.sample import Sampler, png
from tgo_pipeline.params import GenerateParams

PARAMS = GenerateParams(guidance_scale=2.0, steps=3)
PROMPTS = [f"prompt {number}" for number in range(7)]
SEEDS = [2**63 - 1 - number for number in range(7)]


@pytest.fixture(scope="module")
def pipeline(pipeline_folder: Path):
    return load_pipeline(str(pipeline_folder))


class SmallMemory:
    """The pipeline on a device where batches above `most` do not fit."""

    def __init__(self, pipeline, most: int) -> None:
        self.pipeline, self.most, self.batches = pipeline, most, []

    def __call__(self, prompt: list[str], **options):
        import torch

        if len(prompt) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
        self.batches.append(len(prompt))
        return self.pipeline(prompt=prompt, **options)


def _pixels(images) -> np.ndarray:
    return np.stack([np.asarray(image) for image in images]).astype(int)


def test_batches_do_not_change_images(pipeline) -> None:
    alone = _pixels(Sampler(pipeline, PARAMS, 1).images(PROMPTS, SEEDS))
    assert alone.shape == (7, 32, 32, 3)
    assert all((alone[i] != alone[j]).any() for i in range(7) for j in range(i))
    for batch_size in (3, 7, 64):
        together = _pixels(Sampler(pipeline, PARAMS, batch_size).images(PROMPTS, SEEDS))
        assert np.abs(alone - together).max() <= 1  # rounding of sums in another order, at most 1 of 255
    backwards = _pixels(Sampler(pipeline, PARAMS, 3).images(PROMPTS[::-1], SEEDS[::-1]))
    assert np.abs(alone - backwards[::-1]).max() <= 1


def test_guidance_steps_and_size_are_used(pipeline) -> None:
    def draw(**options) -> np.ndarray:
        params = GenerateParams(**{"guidance_scale": 2.0, "steps": 3, **options})
        return _pixels(Sampler(pipeline, params, 2).images(PROMPTS[:1], SEEDS[:1]))

    assert (draw() != draw(guidance_scale=5.0)).any()
    assert (draw() != draw(steps=4)).any()
    assert draw(width=48, height=16).shape == (1, 16, 48, 3)
    with pytest.raises(TgoError, match=r"cannot sample with .*width=33.*divisible by 8"):
        draw(width=33, height=32)


def test_memory_that_runs_out_halves_the_batch_once(pipeline, caplog: pytest.LogCaptureFixture) -> None:
    small = SmallMemory(pipeline, most=2)
    with caplog.at_level(logging.WARNING, logger="tgo"):
        drawn = _pixels(Sampler(small, PARAMS, 5).images(PROMPTS, SEEDS))
    assert small.batches == [2, 2, 2, 1]
    assert [record.getMessage()[:30] for record in caplog.records] == ["out of memory: going on with b"]
    assert np.abs(drawn - _pixels(Sampler(pipeline, PARAMS, 7).images(PROMPTS, SEEDS))).max() <= 1


def test_not_even_one_image_fits(pipeline) -> None:
    with pytest.raises(TgoError, match="not even one image fits"):
        list(Sampler(SmallMemory(pipeline, most=0), PARAMS, 4).images(PROMPTS, SEEDS))


def test_other_failures_pass_through() -> None:
    def broken(**_options):
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1"):
        list(Sampler(broken, PARAMS, 4).images(PROMPTS, SEEDS))


def test_png_keeps_every_pixel() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 5, 3), dtype=np.uint8)
    data = png(Image.fromarray(pixels))
    assert (np.asarray(Image.open(io.BytesIO(data))) == pixels).all()
