"""The weights that ship: they load with the real classes, say where they come from, and are worth judging by."""

import numpy as np
import pytest
from PIL import Image
from safetensors import safe_open

from tgo_pipeline import demo
from tgo_pipeline.demo.oracle import oracle
from tgo_pipeline.demo_training.train import REWARDS, sample
from tgo_pipeline.rewards import load_reward

FOLDER = demo.weights_path("diffusion").parent
TEXT_AWARE = tuple(name for name in REWARDS if name != "aesthetic")


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    every = [demo.prompts(family)[:16] for family in ("plain", "sized", "placed")]
    return [caption for family in every for caption in family] * 2


@pytest.fixture(scope="module")
def images(prompts: list[str]) -> np.ndarray:
    from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline

    pipeline = StableDiffusionPipeline.from_pretrained(demo.weights_path("diffusion"))
    pipeline.set_progress_bar_config(disable=True)
    return sample(pipeline, prompts, seed=0, guidance_scale=1.0)


def ranks(values: np.ndarray) -> np.ndarray:
    return np.argsort(np.argsort(values))


def test_the_weights_are_small_and_say_how_they_were_made():
    files = sorted(path for path in FOLDER.rglob("*") if path.is_file())
    of_clips = {path for path in files if {"video", "moving_choice"} & set(path.parts)}
    assert sum(path.stat().st_size for path in of_clips) < 6e6
    assert sum(path.stat().st_size for path in files if path not in of_clips) < 12e6
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as stream:
                assert stream.metadata()["made_by"] == "tgo demo train", file


def test_the_base_model_draws_what_is_asked_and_has_room_to_improve(images: np.ndarray, prompts: list[str]):
    scores = oracle(images, prompts)
    shuffled = oracle(images, prompts[7:] + prompts[:7])
    assert 0.45 < scores.mean() < 0.85
    assert scores.std() > 0.1
    assert scores.mean() > shuffled.mean() + 0.1


@pytest.mark.parametrize("name", TEXT_AWARE)
def test_a_reward_agrees_with_the_oracle_on_samples_without_equalling_it(
    name: str, images: np.ndarray, prompts: list[str]
):
    scores = load_reward(name, "demo").score([Image.fromarray(image) for image in images], prompts)
    correlation = np.corrcoef(ranks(scores), ranks(oracle(images, prompts)))[0, 1]
    assert 0.25 < correlation < 0.95


def test_the_aesthetic_reward_sees_noise_and_fading_without_reading_the_prompt():
    from tgo_pipeline.demo import world

    captions = demo.prompts("validation")
    reward = load_reward("aesthetic", "demo")
    clean, spoilt = (
        reward.score([Image.fromarray(p) for p in world.images(captions, seed=2, strength=s)], captions)
        for s in (0.0, 2.0)
    )
    assert (clean > spoilt).mean() > 0.7
