"""The masked base that ships: two lines of diffusers load it, it says where it comes from, and it draws captions."""

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from PIL import Image
from safetensors import safe_open

from tgo_pipeline import demo
from tgo_pipeline.demo import world
from tgo_pipeline.demo.oracle import oracle
from tgo_pipeline.demo_training import masked_model
from tgo_pipeline.demo_training.train import REWARDS, sample
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.rewards import load_reward

FOLDER = demo.weights_path("masked")


@pytest.fixture(scope="module")
def pipeline() -> DiffusionPipeline:
    pipeline = DiffusionPipeline.from_pretrained(FOLDER)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


@pytest.fixture(scope="module")
def prompts() -> list[str]:
    every = [demo.prompts(family)[:16] for family in world.FAMILIES]
    return [caption for family in every for caption in family] * 2


@pytest.fixture(scope="module")
def drawn(pipeline: DiffusionPipeline, prompts: list[str]) -> np.ndarray:
    return sample(pipeline, prompts, seed=0, guidance_scale=2.0)


def test_the_weights_are_small_and_say_how_they_were_made():
    files = sorted(path for path in FOLDER.rglob("*") if path.is_file())
    assert sum(path.stat().st_size for path in files) < 8e6
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as stream:
                assert stream.metadata()["made_by"] == "tgo demo train", file
                assert "MaskedTraining" in stream.metadata()["sizes"], file
        if file.suffix == ".json":
            assert "_name_or_path" not in file.read_text(), file


def test_the_parts_are_of_the_classes_of_amused_and_fit_each_other(pipeline: Any):
    assert {name: type(part).__name__ for name, part in pipeline.components.items()} == {
        "vqvae": "VQModel",
        "tokenizer": "CLIPTokenizer",
        "text_encoder": "CLIPTextModelWithProjection",
        "transformer": "UVit2DModel",
        "scheduler": "AmusedScheduler",
    }
    assert pipeline.tokenizer.model_max_length == pipeline.text_encoder.config.max_position_embeddings
    assert pipeline.vqvae.config.num_vq_embeddings == pipeline.transformer.config.codebook_size
    assert pipeline.transformer.config.vocab_size > pipeline.scheduler.config.mask_token_id


def test_samples_show_their_captions_and_leave_room_to_improve(drawn: np.ndarray, prompts: list[str]):
    assert drawn.shape == (len(prompts), 32, 32, 3)
    scores = oracle(drawn, prompts)
    shuffled = oracle(drawn, prompts[7:] + prompts[:7])
    noise = np.random.default_rng(0).integers(0, 256, drawn.shape, dtype=np.uint8)
    assert scores.mean() > oracle(noise, prompts).mean() + 0.2
    assert scores.mean() > shuffled.mean() + 0.1
    assert scores.mean() < 0.85
    assert scores.std() > 0.1


def test_rewards_that_never_saw_its_samples_agree_with_the_oracle_on_them(
    drawn: np.ndarray, prompts: list[str]
):
    images = [Image.fromarray(image) for image in drawn]
    scores = [np.array(load_reward(name, "demo").score(images, prompts)) for name in REWARDS]
    mean = np.mean([(values - values.mean()) / values.std() for values in scores], axis=0)
    ranks = [np.argsort(np.argsort(values)) for values in (mean, oracle(drawn, prompts))]
    assert np.corrcoef(*ranks)[0, 1] > 0.4


def test_most_codes_are_in_use_and_images_survive_them(pipeline: Any):
    captions = demo.prompts("validation")
    clean = world.images(captions, seed=1, strength=0.0)
    codes = masked_model.encode(pipeline.vqvae, world.images(captions, seed=2))
    assert masked_model.perplexity(codes) > 200
    seen = masked_model.encode(pipeline.vqvae, clean).view(-1, 8, 8)
    with torch.no_grad():
        decoded = pipeline.vqvae.decode(seen, force_not_quantize=True, shape=(len(seen), 8, 8, 8)).sample
    images = decoded.clamp(0, 1).permute(0, 2, 3, 1).numpy()
    assert np.abs(images - clean / 255).mean() < 0.03
    assert oracle(images, captions).mean() > 0.75


def test_demo_masked_names_it():
    pipeline: Any = load_pipeline("demo-masked")
    images = pipeline(["a red circle on a white background"], num_inference_steps=2).images
    assert images[0].size == (32, 32)
