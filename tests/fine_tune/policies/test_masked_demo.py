"""The small world's masked model under its policy: tokens decode to the image, captions explain it."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from fine_tune.policies import policy_class
from tests.fine_tune import world as training
from tests.rounding import assert_same_tokens
from tgo_pipeline import demo
from tgo_pipeline.demo import world
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.generators.masked import seeded_by_image

CAPTIONS = demo.prompts("validation")[::4][:24]
MODEL = "demo-masked"


@pytest.fixture(scope="module")
def pipeline() -> Any:
    return load_pipeline(MODEL)


@pytest.fixture(scope="module")
def pixels() -> np.ndarray:
    return world.images(CAPTIONS, seed=0, strength=0)


@pytest.fixture(scope="module")
def images(pipeline: Any, pixels: np.ndarray) -> dict[str, torch.Tensor]:
    encoder = policy_class(pipeline).encoder(pipeline, (None, None))
    return encoder.images([Image.fromarray(image) for image in pixels])


def test_the_tokens_of_an_image_decode_to_it(
    pipeline: Any, pixels: np.ndarray, images: dict[str, torch.Tensor]
) -> None:
    """By the decoder of sampling: about 29 decibels; pixels in [-1, 1] instead of [0, 1] would give 10."""
    tokens = images["tokens"].long()
    shape = (*tokens.shape, pipeline.vqvae.config["latent_channels"])
    with torch.no_grad():
        decoded = pipeline.vqvae.decode(tokens, force_not_quantize=True, shape=shape).sample.clip(0, 1)
    error = 255 * decoded.permute(0, 2, 3, 1).numpy() - pixels
    assert 20 * np.log10(255 / np.sqrt(np.square(error).mean())) > 22


def test_images_are_likeliest_under_their_own_captions(
    pipeline: Any, images: dict[str, torch.Tensor]
) -> None:
    params = training.params(pipeline.name_or_path, temperature=1.0).fine_tune
    policy = policy_class(pipeline).build(pipeline, params, seed=0, with_reference=False)
    encoder = policy.encoder(pipeline, (None, None))
    own = encoder.prompts(CAPTIONS)
    others = {name: rows.roll(1, 0) for name, rows in own.items()}

    def likelihood(conditions: dict[str, torch.Tensor]) -> float:
        total = 0.0
        for draw in range(4):
            masked = policy.corrupt(images, conditions, range(100 * draw, 100 * draw + len(CAPTIONS)))
            with torch.no_grad():
                total += policy.log_likelihood(policy.predict(masked), masked).mean().item()
        return total / 4

    assert likelihood(own) > likelihood(encoder.prompts([""] * len(CAPTIONS))) + 0.05
    assert likelihood(own) > likelihood(others) + 0.2


def test_an_image_has_the_same_tokens_in_any_batch(pipeline: Any) -> None:
    def draw(rows: slice) -> torch.Tensor:
        generators = [torch.Generator().manual_seed(seed) for seed in range(8)][rows]
        options = {"num_inference_steps": 6, "guidance_scale": 2.0, "output_type": "latent"}
        return pipeline(CAPTIONS[:8][rows], generator=generators, **options).images

    with seeded_by_image(pipeline):
        together = draw(slice(8))
        assert_same_tokens(torch.cat([draw(slice(0, 3)), draw(slice(3, 8))]), together)
