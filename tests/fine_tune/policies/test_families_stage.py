"""The whole fine_tune stage on SDXL, SD3 and FLUX: cache, training, result, sampling from it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fine_tune import stage
from fine_tune.data.tensors import read_tensors
from tests.fine_tune import world
from tests.tiny import IMAGE_SIZE
from tests.tiny_families import tiny_flux_pipeline, tiny_sd3_pipeline, tiny_sdxl_pipeline
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.generators.sample import Sampler

CACHED: dict[Callable[..., Path], tuple[set[str], set[str]]] = {
    tiny_sdxl_pipeline: ({"latents", "time_ids"}, {"embeddings", "pooled"}),
    tiny_sd3_pipeline: ({"latents"}, {"embeddings", "pooled"}),
    tiny_flux_pipeline: ({"latents"}, {"embeddings", "pooled"}),
}


def draw(model: Path, params: Any) -> np.ndarray:
    sampler = Sampler(load_pipeline(str(model)), params.generate, batch_size=1)
    return np.asarray(next(iter(sampler.images(["picture number 0"], [1]))))


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("write", CACHED)
def test_the_stage_tunes_the_family(
    write: Callable[[Path], Path], method: str, places: dict[str, Path], tmp_path: Path
) -> None:
    model = write(tmp_path / "model")
    size = {"width": IMAGE_SIZE, "height": IMAGE_SIZE}
    params = world.params(model, size, method=method, steps=2, caption_dropout=0.3, learning_rate=1e-2)
    stage.run(params, world.workspace(places))
    images, prompts = CACHED[write]
    assert set(read_tensors(next(places["encoded"].glob("train-*")))[0]) == images
    assert set(read_tensors(next(places["encoded"].glob("prompts-*")))[0]) == prompts
    assert not np.array_equal(draw(places["model"], params), draw(model, params))
