"""Sampling in half precision: every family, what stays as it was, and what is refused."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.tiny import IMAGE_SIZE, tiny_diffusion_pipeline
from tests.tiny_families import tiny_flux_pipeline, tiny_sd3_pipeline, tiny_sdxl_pipeline
from tests.tiny_masked import tiny_amused_pipeline, tiny_meissonic_pipeline
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.generators import stage as generators
from tgo_pipeline.generators.sample import Sampler
from tgo_pipeline.params import GenerateParams

LATENT = (tiny_diffusion_pipeline, tiny_sdxl_pipeline, tiny_sd3_pipeline, tiny_flux_pipeline)
MASKED = (tiny_amused_pipeline, tiny_meissonic_pipeline)
PARAMS = GenerateParams(steps=2, guidance_scale=2.0, width=IMAGE_SIZE, height=IMAGE_SIZE)
PROMPTS = ["a cat", "two dogs"]


def draw(pipeline: object) -> np.ndarray:
    images = Sampler(pipeline, PARAMS, batch_size=2).images(PROMPTS, [1, 2])
    return np.stack([np.asarray(image, dtype=np.float64) for image in images])


@pytest.mark.parametrize("write", [*LATENT, *MASKED])
def test_every_network_is_in_the_precision_and_draws(write: Callable[[Path], Path], tmp_path: Path) -> None:
    model = str(write(tmp_path / "model"))
    half = load_pipeline(model, precision="bf16")
    networks = [part for part in half.components.values() if isinstance(part, torch.nn.Module)]
    assert {parameter.dtype for network in networks for parameter in network.parameters()} == {torch.bfloat16}
    images = draw(half)
    assert np.array_equal(images, draw(half))
    if write in LATENT:  # tokens are drawn at random: one that differs changes all that follow
        full = draw(load_pipeline(model))
        assert 0 < np.abs(images - full).mean() < 0.1 * full.std()


def test_guidance_modules_take_the_precision_of_the_base(tmp_path: Path) -> None:
    from tgo_pipeline.generators import guided_pipeline

    base, positive = (tiny_diffusion_pipeline(tmp_path / str(seed), seed=seed) for seed in (0, 1))
    pipeline = guided_pipeline(str(base), str(positive), strength=0.5, precision="bf16")
    assert {parameter.dtype for parameter in pipeline.unet.parameters()} == {torch.bfloat16}
    assert draw(pipeline).std() > 0


@pytest.mark.parametrize("write", [tiny_sd3_pipeline, tiny_flux_pipeline])
def test_t5_is_refused_in_fp16(write: Callable[[Path], Path], tmp_path: Path) -> None:
    model = str(write(tmp_path / "model"))
    with pytest.raises(TgoError, match="has T5, which overflows in it: use bf16 or fp32"):
        load_pipeline(model, precision="fp16")


def test_another_precision_makes_shards_stale_and_float32_keeps_those_of_before() -> None:
    def marks(params: GenerateParams) -> list[str]:
        shards = generators.plan(
            [("p", "a cat")],
            split="train",
            model="demo",
            revision=None,
            params=params,
            images_per_prompt=1,
            seed=0,
            purpose="generate",
        )
        return [shard.fingerprint for shard in shards]

    each = [marks(dataclasses.replace(PARAMS, precision=precision)) for precision in ("fp32", "bf16", "fp16")]
    assert len({tuple(mark) for mark in each}) == 3
    assert each[0] == marks(PARAMS)
