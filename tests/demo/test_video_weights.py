"""The model of clips that ships: two lines of diffusers load it, it says where it comes from, and it draws captions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from safetensors import safe_open

from tgo_pipeline import demo
from tgo_pipeline.demo import moving
from tgo_pipeline.demo.moving_oracle import moving_oracle, moving_parts
from tgo_pipeline.demo_training import video_model
from tgo_pipeline.demo_training.train import sample_clips

FOLDER = demo.weights_path("video")


@pytest.fixture(scope="module")
def pipeline() -> DiffusionPipeline:
    pipeline = DiffusionPipeline.from_pretrained(FOLDER)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def test_the_weights_are_small_and_say_how_they_were_made() -> None:
    files = [
        file for name in ("video", "rewards/moving_choice") for file in demo.weights_path(name).rglob("*")
    ]
    assert sum(file.stat().st_size for file in files) < 6e6
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as stream:
                assert stream.metadata()["made_by"] == "tgo demo train", file
                assert "VideoTraining" in stream.metadata()["sizes"], file
        if file.suffix == ".json":
            assert "_name_or_path" not in file.read_text(), file


def test_the_parts_are_of_the_classes_of_wan_and_read_every_word(pipeline: Any) -> None:
    assert {name: type(part).__name__ for name, part in pipeline.components.items() if part is not None} == {
        "tokenizer": "T5Tokenizer",
        "text_encoder": "UMT5EncoderModel",
        "vae": "AutoencoderKLWan",
        "transformer": "WanTransformer3DModel",
        "scheduler": "UniPCMultistepScheduler",
    }
    tokens = pipeline.tokenizer(list(moving.captions())).input_ids
    assert {len(row) for row in tokens} == {11}
    assert pipeline.tokenizer.unk_token_id not in {token for row in tokens for token in row}


def test_clips_survive_the_vae(pipeline: Any) -> None:
    captions = demo.prompts("moving-validation")
    clips = moving.clips(captions, seed=1, strength=0.0)
    with torch.no_grad():
        latents = video_model.encode(pipeline.vae, clips)
        drawn = pipeline.vae.decode(latents).sample.permute(0, 2, 3, 4, 1).numpy() / 2 + 0.5
    assert np.abs(drawn - clips / 255).mean() < 0.03
    assert moving_oracle(drawn, captions).mean() > 0.8


def test_padding_that_is_counted_is_padding_that_is_attended_to(pipeline: Any) -> None:
    """In training one state of zeros stands for the 497 that the pipeline puts behind a prompt."""
    network = video_model.Velocity(pipeline.transformer, pipeline.text_encoder)
    tokens, mask = video_model.tokenise(pipeline.tokenizer, demo.prompts("moving")[:2])
    noisy = torch.randn(2, 16, 5, 4, 4, generator=torch.Generator().manual_seed(0))
    embeddings, _ = pipeline.encode_prompt(
        demo.prompts("moving")[:2], do_classifier_free_guidance=False, max_sequence_length=512
    )
    times = torch.tensor([300.0, 900.0])
    own = [block.attn2.processor for block in pipeline.transformer.blocks]
    with torch.no_grad():
        expected = pipeline.transformer(noisy, times, embeddings, return_dict=False)[0]
        video_model.attend(pipeline.transformer, [video_model.CountedPadding() for _ in own])
        found = network(noisy, times, tokens, mask)
        video_model.attend(pipeline.transformer, own)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_samples_show_their_captions_and_leave_room_to_improve(pipeline: Any) -> None:
    captions = demo.prompts("moving")
    drawn = sample_clips(pipeline, captions, seed=0, guidance_scale=2.0)
    scores = moving_oracle(drawn, captions)
    shuffled = moving_oracle(drawn, captions[7:] + captions[:7])
    assert scores.mean() > shuffled.mean() + 0.05
    assert 0.4 < scores.mean() < 0.9
    assert moving_parts(drawn, captions)["colour"].mean() > 0.5
