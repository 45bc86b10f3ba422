"""`tgo demo train` from nothing to weights that the real classes load, at toy size; and it continues where it was."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from tgo_pipeline import demo
from tgo_pipeline.demo import world
from tgo_pipeline.demo_training.base_model import BaseTraining, training_images
from tgo_pipeline.demo_training.masked_model import MaskedTraining
from tgo_pipeline.demo_training.reward_models import RewardTraining
from tgo_pipeline.demo_training.train import REWARDS, Sizes, sample_clips, train
from tgo_pipeline.demo_training.video_model import VideoTraining
from tgo_pipeline.demo_training.video_reward import ChoiceTraining
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.rewards import load_reward

TOY = Sizes(
    drawn=150,
    sampled=4,
    base=BaseTraining(
        images=64, vae_steps=2, vae_batch=4, decoder_steps=2, unet_steps=4, unet_batch=4, checkpoint_every=2
    ),
    masked=MaskedTraining(
        images=64,
        vq_steps=4,
        vq_batch=4,
        restart_every=2,
        decoder_steps=2,
        transformer_steps=4,
        transformer_batch=4,
        checkpoint_every=2,
    ),
    rewards=RewardTraining(2, 2, 2, 2, 2, batch=16),
    batch=4,
    video=VideoTraining(
        clips=16, vae_steps=4, decoder_steps=2, vae_batch=2, steps=4, batch=4, checkpoint_every=2
    ),
    choice=ChoiceTraining(captions=4, steps=4, batch=4, checkpoint_every=2),
)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("demo"), seed=1, sizes=TOY)


def test_everything_loads_with_the_real_classes_and_says_how_it_was_made(trained: Path):
    for name in ("diffusion", "masked"):
        pipeline: Any = load_pipeline(str(trained / name))
        drawn = pipeline(
            prompt=["a red circle on a white background"], num_inference_steps=2, output_type="np"
        )
        assert drawn.images.shape == (1, 32, 32, 3)
    clips = sample_clips(load_pipeline(str(trained / "video")), ["a red circle"], 0, 2.0)
    assert clips.shape == (1, 9, 32, 32, 3)
    for name in (*REWARDS, "moving_choice"):
        load_reward(name, str(trained / "rewards" / name))
    for file in trained.rglob("*.safetensors"):
        with safe_open(file, "pt") as stream:
            assert stream.metadata()["made_by"] == "tgo demo train"
            assert stream.metadata()["seed"] == "1"


def test_an_interrupted_training_ends_with_the_same_weights(
    trained: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    from tgo_pipeline.demo_training import base_model

    real, calls = base_model._save, []

    def save_then_fail(*arguments: object) -> None:
        real(*arguments)  # type: ignore[arg-type]
        calls.append(1)
        if len(calls) in (
            3,
            5,
        ):  # VAE, decoder, and the UNet half way; then the UNet, and the VQ model half way
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(base_model, "_save", save_then_fail)
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                train(tmp_path, seed=1, sizes=TOY)
    weights = train(tmp_path, seed=1, sizes=TOY)
    for name in (
        "diffusion/unet/diffusion_pytorch_model.safetensors",
        "masked/vqvae/diffusion_pytorch_model.safetensors",
        "masked/transformer/diffusion_pytorch_model.safetensors",
        "rewards/clip/model.safetensors",
        "video/vae/diffusion_pytorch_model.safetensors",
        "video/transformer/diffusion_pytorch_model.safetensors",
        "rewards/moving_choice/model.safetensors",
    ):
        left, right = load_file(weights / name), load_file(trained / name)
        assert left.keys() == right.keys()
        assert all(torch.equal(left[key], right[key]) for key in left)


def test_base_images_come_from_every_family():
    captions, images = training_images(60, seed=0)
    families = {
        family for family in world.FAMILIES for caption in captions if caption in world.captions(family)
    }
    assert families == set(world.FAMILIES)
    assert images.shape == (60, 32, 32, 3)


def test_every_word_is_one_token(tmp_path: Path):
    from tgo_pipeline.demo_training.base_model import write_tokenizer

    tokenizer = write_tokenizer(tmp_path)
    for caption in demo.prompts("placed")[:5]:
        assert len(tokenizer(caption).input_ids) == len(caption.replace(",", " ,").split()) + 2
