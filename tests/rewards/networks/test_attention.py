"""The towers against those of transformers and open_clip, with eager attention and every token computed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import open_clip.model
import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize
from transformers import CLIPTextModelWithProjection, CLIPVisionModelWithProjection
from transformers.models.blip.modeling_blip import BlipVisionModel
from transformers.models.blip.modeling_blip_text import BlipTextModel
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from tests.rewards import tiny
from tgo_pipeline.rewards.clip_score import ClipScore
from tgo_pipeline.rewards.hpsv2 import HPSv2
from tgo_pipeline.rewards.image_reward import MEAN, STD, ImageReward
from tgo_pipeline.rewards.networks.attention import ClipAttention, class_token
from tgo_pipeline.rewards.networks.clip_models import vision_config

PROMPTS = ["a red cat", "blue cats", "", "red cat red cat " * 20]
EQUAL = {"rtol": 0, "atol": 1e-6}


def build(name: str) -> Any:
    return tiny.build(name).requires_grad_(False)


def eager(kind: Callable[..., nn.Module], config: Any, like: nn.Module, **options: Any) -> Any:
    """Another library's network with the same weights and its own eager attention."""
    config._attn_implementation = "eager"
    network = kind(config, **options)
    network.load_state_dict(like.state_dict())
    return network.requires_grad_(False).eval()


def noise(count: int = 4) -> Tensor:
    return torch.from_numpy(np.random.default_rng(0).normal(size=(count, 3, tiny.SIZE, tiny.SIZE))).float()


def assert_same(found: Callable[[Tensor], Tensor], expected: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Both give the same values and the same gradients for one random direction."""
    results = []
    for function in (found, expected):
        leaf = x.clone().requires_grad_()
        value = function(leaf)
        direction = torch.from_numpy(np.random.default_rng(1).normal(size=tuple(value.shape))).float()
        (value * direction).sum().backward()
        assert leaf.grad is not None
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(results[0][0], results[1][0], **EQUAL)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-4, atol=1e-6)


def test_blips_image_network_is_eager_attentions() -> None:
    reward: ImageReward = build("imagereward")
    network = eager(BlipVisionModel, reward.vision.config, reward.vision)
    assert_same(reward.encode_images, lambda x: network(pixel_values=x).last_hidden_state, noise())


def test_blips_text_network_is_eager_attentions_with_padding_and_all() -> None:
    reward: ImageReward = build("imagereward")
    network = eager(BlipTextModel, reward.text.config, reward.text, add_pooling_layer=False)
    tokens = reward.tokenize(PROMPTS)

    def expected(hidden: Tensor) -> Tensor:
        states = network(
            input_ids=tokens, attention_mask=(tokens != 0).long(), encoder_hidden_states=hidden
        ).last_hidden_state
        return (reward.head(states[:, 0]) - MEAN) / STD

    assert_same(lambda hidden: reward.combine(hidden, tokens), expected, reward.encode_images(noise()))


def test_the_name_of_the_padding_in_a_prompt_is_a_word_like_others() -> None:
    """The official code masks what the tokenizer added, whatever a prompt says."""
    reward: ImageReward = build("imagereward")
    network = eager(BlipTextModel, reward.text.config, reward.text, add_pooling_layer=False)
    prompts = ["red [PAD] cat", "a", "[PAD]", "blue cats [PAD] [PAD]"]
    length = reward.tokens
    encoded = reward.tokenizer(
        prompts, padding="max_length", truncation=True, max_length=length, return_tensors="pt"
    )
    hidden = reward.encode_images(noise())
    states = network(
        input_ids=encoded["input_ids"],
        attention_mask=encoded["attention_mask"],
        encoder_hidden_states=hidden,
    ).last_hidden_state
    expected = (reward.head(states[:, 0]) - MEAN) / STD
    torch.testing.assert_close(reward.combine(hidden, reward.tokenize(prompts)), expected, **EQUAL)


@pytest.mark.parametrize("prompts", [["a red cat"] * 2, ["a red cat", "a"]])
def test_imagereward_cuts_padding_only(prompts: list[str]) -> None:
    reward: ImageReward = build("imagereward")
    images, tokens = reward.encode_images(noise(2)), reward.tokenize(prompts)
    alone = [reward.combine(images[i : i + 1], tokens[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(reward.combine(images, tokens), torch.cat(alone), **EQUAL)


def test_clips_image_tower_is_eager_attentions() -> None:
    reward: ClipScore = build("clip")
    network = eager(CLIPVisionModelWithProjection, reward.tower.config, reward.tower.model)
    assert_same(reward.tower, lambda x: normalize(network(pixel_values=x).image_embeds, dim=-1), noise())


@pytest.mark.parametrize("name", ["clip", "pickscore"])
def test_clips_text_tower_is_eager_attentions(name: str) -> None:
    reward = build(name)
    network = eager(CLIPTextModelWithProjection, reward.text.config, reward.text)
    tokens = reward.tokenize(PROMPTS)
    expected = normalize(network(input_ids=tokens).text_embeds, dim=-1)
    torch.testing.assert_close(reward.encode_tokens(tokens), expected, **EQUAL)


def test_an_old_configuration_means_the_highest_token() -> None:
    reward: ClipScore = build("clip")
    tokens = reward.tokenize(PROMPTS)
    expected = reward.encode_tokens(tokens)
    reward.text.config.eos_token_id = 2
    assert torch.equal(reward.encode_tokens(tokens), expected)


def test_hpsv2s_towers_are_open_clips() -> None:
    reward: HPSv2 = build("hpsv2.1")
    network = open_clip.model.CLIP(**reward.config)
    network.load_state_dict(reward.clip.state_dict())
    network.requires_grad_(False).eval()
    assert_same(reward.encode_images, lambda x: network.encode_image(x, normalize=True), noise())
    tokens = reward.tokenize(PROMPTS)
    expected = network.encode_text(tokens, normalize=True)
    torch.testing.assert_close(reward.encode_tokens(tokens), expected, **EQUAL)


@pytest.mark.parametrize("name", ["hpsv2.1", "pickscore", "clip"])
def test_prompts_cut_at_their_ends_are_the_same_prompts(name: str) -> None:
    reward = build(name)
    texts = [*PROMPTS, "blue", "red red red", "cat " * 9]
    counts = reward.token_counts(reward.tokenize(texts))
    assert counts.tolist()[2] == 2
    assert counts.max() == tiny.LENGTH
    torch.testing.assert_close(
        reward.encode_prompts(texts), reward.encode_tokens(reward.tokenize(texts)), **EQUAL
    )


def test_prompts_of_many_lengths_come_back_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tgo_pipeline.rewards.base.PROMPTS_AT_ONCE", 3)
    reward = build("clip")
    texts = ["red " * (n % 7) for n in range(20)]
    alone = torch.cat([reward.encode_prompts([text]) for text in texts])
    torch.testing.assert_close(reward.encode_prompts(texts), alone, **EQUAL)


def test_the_last_blocks_class_token_is_that_of_the_whole_block() -> None:
    config = vision_config(tiny.clip_config())
    config._attn_implementation = "eager"
    block = CLIPEncoderLayer(config).eval().requires_grad_(False)
    hidden = torch.from_numpy(np.random.default_rng(0).normal(size=(2, 5, 32))).float()
    whole = block(hidden, None)
    attention = ClipAttention(block.self_attn, causal=False)
    token = class_token(hidden, block.layer_norm1, attention, block.layer_norm2, block.mlp)
    torch.testing.assert_close(token, whole[:, :1], **EQUAL)


def test_dropout_is_for_training() -> None:
    attention = ClipAttention(CLIPEncoderLayer(vision_config(tiny.clip_config())).self_attn, causal=False)
    attention.dropout_p = 0.5
    x = torch.ones(1, 4, 32)
    assert torch.equal(attention.eval().attend(x), attention.attend(x))
    torch.manual_seed(0)
    assert not torch.equal(attention.train().attend(x), attention.attend(x))


def test_checkpoints_see_the_modules_of_the_libraries() -> None:
    """Attention is replaced, its keys are not."""
    clip, blip = build("clip"), build("imagereward")
    pairs = [
        (clip.tower.model, CLIPVisionModelWithProjection(clip.tower.config)),
        (clip.text, CLIPTextModelWithProjection(clip.text.config)),
        (blip.vision, BlipVisionModel(blip.vision.config)),
        (blip.text, BlipTextModel(blip.text.config, add_pooling_layer=False)),
        (build("hpsv2.1").clip, open_clip.model.CLIP(**build("hpsv2.1").config)),
    ]
    for own, library in pairs:
        assert {k: v.shape for k, v in own.state_dict().items()} == {
            k: v.shape for k, v in library.state_dict().items()
        }
