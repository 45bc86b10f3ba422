"""A masked-token image depends on its own seed alone, and follows the distribution of the library's scheduler."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from diffusers.schedulers.scheduling_amused import AmusedScheduler

from tests.rounding import SAME_TOKENS, assert_same_tokens
from tests.tiny_masked import CODES, MASK_TOKEN, tiny_amused_pipeline
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.generators.masked import ImageScheduler, choose, seeded_by_image
from tgo_pipeline.generators.sample import Sampler
from tgo_pipeline.params import GenerateParams

PROMPTS = [f"prompt {number}" for number in range(5)]
SEEDS = [2**63 - 1 - number for number in range(5)]
STEPS = 5
"""After two thirds of the steps half of the tokens would be masked, but for rounding: 31 or 32 of 64."""


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory):
    return load_pipeline(str(tiny_amused_pipeline(tmp_path_factory.mktemp("amused"))))


def generators(seeds=SEEDS) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


def tokens(pipeline, rows: slice) -> torch.Tensor:
    with seeded_by_image(pipeline):
        return pipeline(
            PROMPTS[rows],
            generator=generators(SEEDS[rows]),
            num_inference_steps=STEPS,
            guidance_scale=2.0,
            output_type="latent",
        ).images


def test_the_batch_does_not_change_an_images_tokens(pipeline) -> None:
    together = tokens(pipeline, slice(None))
    assert together.shape == (5, 8, 8) and together.max() < CODES
    assert all((together[i] != together[j]).any() for i in range(5) for j in range(i))
    for row in range(5):
        assert_same_tokens(tokens(pipeline, slice(row, row + 1))[0], together[row])
    assert_same_tokens(tokens(pipeline, slice(2, 4)), together[2:4])


def test_the_sampler_draws_images_of_any_batch_size(pipeline) -> None:
    def draw(batch_size: int, **options) -> np.ndarray:
        params = GenerateParams(**{"guidance_scale": 2.0, "steps": STEPS, **options})
        images = list(Sampler(pipeline, params, batch_size).images(PROMPTS, SEEDS))
        return np.stack([np.asarray(image) for image in images]).astype(int)

    alone = draw(1)
    assert alone.shape == (5, 32, 32, 3)
    near = np.abs(alone - draw(3)) <= 1  # rounding of the decoder's sums
    assert near.mean() >= SAME_TOKENS
    assert (alone != draw(1, guidance_scale=9.0)).any()
    assert (alone != draw(1, steps=3)).any()
    assert draw(5, width=48, height=16).shape == (5, 16, 48, 3)


def test_the_pipeline_is_left_as_it_was(pipeline) -> None:
    before = pipeline.scheduler
    with pytest.raises(RuntimeError), seeded_by_image(pipeline):
        assert isinstance(pipeline.scheduler, ImageScheduler)
        raise RuntimeError
    assert pipeline.scheduler is before
    assert pipeline.config["scheduler"] == ("diffusers", "AmusedScheduler")


def test_tokens_follow_the_softmax() -> None:
    probabilities = torch.tensor([0.05, 0.4, 0.0, 0.25, 0.3])
    uniform = torch.rand(1, 20_000, generator=torch.Generator().manual_seed(0))
    drawn = choose(probabilities.expand(1, 20_000, 5), uniform)
    counts = np.bincount(drawn[0].numpy(), minlength=5)
    assert counts[2] == 0
    expected = 20_000 * probabilities.numpy()[[0, 1, 3, 4]]
    assert (
        np.square(counts[[0, 1, 3, 4]] - expected) / expected
    ).sum() < 16.3  # 3 degrees of freedom, p = .001


def test_the_ends_of_the_unit_interval_are_possible_tokens() -> None:
    probabilities = torch.tensor([[[0.0, 0.5, 0.5, 0.0]]])
    assert choose(probabilities, torch.tensor([[0.0]])).item() == 1
    assert choose(probabilities, torch.tensor([[1 - 2**-24]])).item() == 2


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_each_step_masks_as_many_tokens_as_the_librarys(schedule) -> None:
    logits = torch.randn(3, CODES, 8, 8, generator=torch.Generator().manual_seed(0))
    samples = {}
    for kind in (AmusedScheduler, ImageScheduler):
        scheduler = kind(mask_token_id=MASK_TOKEN, masking_schedule=schedule)
        scheduler.set_timesteps(STEPS)
        sample, counts = torch.full((3, 8, 8), MASK_TOKEN), []
        for timestep in scheduler.timesteps:
            own = generators(SEEDS[:3]) if kind is ImageScheduler else generators()[0]
            after = scheduler.step(logits, timestep, sample, generator=own).prev_sample
            known = sample != MASK_TOKEN
            assert torch.equal(after[known], sample[known])
            sample = after
            counts.append((sample == MASK_TOKEN).sum((1, 2)).tolist())
        samples[kind] = counts
    assert samples[AmusedScheduler] == samples[ImageScheduler]
    assert samples[ImageScheduler][-1] == [0, 0, 0]


def test_the_least_certain_tokens_are_masked_again() -> None:
    """At temperature 0 the noise has no say: the most probable tokens stay."""
    scheduler = ImageScheduler(mask_token_id=MASK_TOKEN)
    scheduler.set_timesteps(2, temperature=(0, 0))
    sharpness = torch.arange(1.0, 65.0).view(8, 8)
    logits = torch.zeros(1, CODES, 8, 8)
    logits[:, 3] = sharpness
    after = scheduler.step(
        logits, 1, torch.full((1, 8, 8), MASK_TOKEN), generator=generators()[:1]
    ).prev_sample
    masked = (after == MASK_TOKEN)[0]
    assert masked.sum() == 45  # floor(64 cos(pi / 4))
    assert sharpness[~masked].min() > 19


def test_one_generator_is_the_librarys_own_way() -> None:
    logits = torch.randn(2, CODES, 8, 8, generator=torch.Generator().manual_seed(0))
    results = []
    for kind in (AmusedScheduler, ImageScheduler):
        scheduler = kind(mask_token_id=MASK_TOKEN)
        scheduler.set_timesteps(STEPS)
        sample = torch.full((2, 8, 8), MASK_TOKEN)
        results.append(scheduler.step(logits, STEPS - 1, sample, generator=generators()[0]).prev_sample)
    assert torch.equal(*results)


def test_every_image_needs_a_generator() -> None:
    scheduler = ImageScheduler(mask_token_id=MASK_TOKEN)
    scheduler.set_timesteps(STEPS)
    with pytest.raises(TgoError, match="2 images are drawn with 5 generators"):
        scheduler.step(torch.zeros(2, CODES, 8, 8), 0, torch.zeros(2, 8, 8), generator=generators())
