"""The oracle prefers what it says it prefers, measured on drawings whose faults are known."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from PIL import Image

from tgo_pipeline import demo
from tgo_pipeline.demo import world
from tgo_pipeline.demo.oracle import WEIGHTS, oracle, parts
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards import load_reward

CAPTIONS = demo.prompts("validation")


def clean() -> world.Drawing:
    scenes = [world.parse(caption) for caption in CAPTIONS]
    return world.ideal(scenes, np.random.default_rng(0), jitter_px=0.0)


def mean_of(**changes: np.ndarray) -> float:
    return float(oracle(world.draw(dataclasses.replace(clean(), **changes)), CAPTIONS).mean())


def constant(value: float) -> np.ndarray:
    return np.full(len(CAPTIONS), value)


def test_weights_sum_to_one():
    assert sum(WEIGHTS.values()) == pytest.approx(1.0)


def test_a_perfect_image_scores_near_one():
    scores = oracle(world.draw(clean()), CAPTIONS)
    assert scores.min() > 0.85
    assert scores.mean() > 0.95


@pytest.mark.parametrize(
    ("nuisance", "strengths"),
    [("noise", (0.05, 0.1, 0.2)), ("blur", (0.7, 1.4, 2.8)), ("fading", (0.2, 0.5, 0.8))],
)
def test_every_spoiling_lowers_the_mean_and_more_lowers_it_more(nuisance: str, strengths: tuple[float, ...]):
    means = [mean_of(), *(mean_of(**{nuisance: constant(strength)}) for strength in strengths)]
    assert all(later < earlier - 0.01 for earlier, later in itertools.pairwise(means))


def test_wrong_attributes_and_displacement_lower_the_mean():
    right, drawing = mean_of(), clean()
    assert mean_of(colour=1 - drawing.colour) < right - 0.1
    assert mean_of(background=1 - drawing.background) < right - 0.05
    assert mean_of(shape=(drawing.shape + 1) % len(world.SHAPES)) < right - 0.03
    placed = [i for i, caption in enumerate(CAPTIONS) if "at the" in caption]
    moved = world.SIZE_PX - drawing.centre
    measured = parts(world.draw(dataclasses.replace(drawing, centre=moved)), CAPTIONS)
    assert np.nanmax(measured["position"][placed]) < 0.05
    sized = [i for i, caption in enumerate(CAPTIONS) if "small" in caption or "large" in caption]
    swapped = sum(world.RADII_PX.values()) - drawing.radius
    measured = parts(world.draw(dataclasses.replace(drawing, radius=swapped)), CAPTIONS)
    assert np.nanmean(measured["size"][sized]) < 0.2


def test_what_the_caption_leaves_open_is_not_judged():
    measured = parts(world.draw(clean()), CAPTIONS)
    silent = np.array(["at the" not in caption for caption in CAPTIONS])
    assert np.array_equal(np.isnan(measured["position"]), silent)


def test_images_of_the_wrong_size_are_refused():
    with pytest.raises(ValueError, match="shape"):
        oracle(np.zeros((1, 16, 16, 3), np.uint8), CAPTIONS[:1])


def test_the_oracle_is_a_reward():
    images = world.images(CAPTIONS[:6], seed=1)
    reward = load_reward("oracle", "demo")
    scores = reward.score([Image.fromarray(image) for image in images], CAPTIONS[:6])
    assert scores.dtype == np.float32
    np.testing.assert_allclose(scores, oracle(images, CAPTIONS[:6]), atol=1e-4)  # float32 against float64
    assert reward.device == torch.device("cpu")
    with pytest.raises(TgoError, match=r"reward oracle: .*cannot read the caption"):
        reward.score([Image.fromarray(images[0])], ["a dog"])
    with pytest.raises(TgoError, match="source must be `demo`"):
        load_reward("oracle", "elsewhere")
