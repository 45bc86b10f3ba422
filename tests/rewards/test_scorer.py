"""Scoring with several rewards at once: the same numbers as alone, and nothing done twice."""

from __future__ import annotations

import io
from collections import Counter

import numpy as np
import pytest
import torch
from PIL import Image

from tests.rewards import tiny
from tests.rewards.tiny import picture, png
from tgo_pipeline.errors import TgoError
from tgo_pipeline.rewards.aesthetic import Aesthetic
from tgo_pipeline.rewards.base import NetworkReward
from tgo_pipeline.rewards.clip_score import ClipScore
from tgo_pipeline.rewards.scorer import Scorer, share_towers
from tgo_pipeline.rewards.workers import prepare_chunk

NAMES = ("hpsv2.1", "pickscore", "imagereward", "clip", "aesthetic")
PROMPTS = ["a red cat", "blue cats", "a red cat", "a red cat", "blue cats"]


@pytest.fixture
def images() -> list[bytes]:
    return [png(picture(32 + step, 40)) for step in range(5)]


@pytest.fixture
def rewards() -> dict[str, NetworkReward]:
    """All five, the aesthetic one on a tower with the weights of CLIP's."""
    built = {name: tiny.build(name) for name in NAMES}
    clip, aesthetic = built["clip"], built["aesthetic"]
    assert isinstance(clip, ClipScore)
    assert isinstance(aesthetic, Aesthetic)
    aesthetic.tower.load_state_dict(clip.tower.state_dict())
    return built


def test_together_is_as_alone(images: list[bytes], rewards: dict[str, NetworkReward]) -> None:
    alone = {name: Scorer({name: reward}).score(images, PROMPTS) for name, reward in rewards.items()}
    together = Scorer(rewards, batch_size=2).score(images, PROMPTS)
    assert together.errors == {}
    for name in NAMES:
        assert together.columns[name].dtype == np.float32
        np.testing.assert_allclose(together.columns[name], alone[name].columns[name], rtol=0, atol=1e-5)


def test_nothing_is_computed_twice(images: list[bytes], rewards: dict[str, NetworkReward]) -> None:
    clip, aesthetic = rewards["clip"], rewards["aesthetic"]
    assert isinstance(clip, ClipScore)
    assert isinstance(aesthetic, Aesthetic)
    ran: Counter[str] = Counter()
    for name, module in (("clip", clip.tower), ("aesthetic", aesthetic.tower), ("text", clip.text)):
        module.register_forward_hook(lambda _module, inputs, _output, name=name: ran.update({name: 1}))
    texts: list[int] = []
    clip.text.register_forward_pre_hook(
        lambda _module, _args, inputs: texts.append(len(inputs["input_ids"])), with_kwargs=True
    )
    Scorer({"clip": clip, "aesthetic": aesthetic}).score(images, PROMPTS)
    assert ran == {"clip": 1, "text": 1}
    assert texts == [2]


def test_rewards_that_see_the_same_share_the_pixels(rewards: dict[str, NetworkReward]) -> None:
    preparations = [rewards[name].preprocessing for name in ("hpsv2.1", "pickscore", "clip")]
    hpsv2, pickscore, clip = preparations
    square = prepare_chunk([picture(64, 64), picture(40, 40)], preparations)
    assert square.shared[pickscore] == square.shared[clip] != square.shared[hpsv2]
    odd = prepare_chunk([picture(64, 64), picture(32, 39)], preparations)
    assert odd.shared[pickscore] != odd.shared[clip]
    np.testing.assert_array_equal(odd.pixels[odd.shared[pickscore]][0], odd.pixels[odd.shared[clip]][0])


def test_chunks_that_share_differently_are_joined_right(rewards: dict[str, NetworkReward]) -> None:
    images = [*(picture(32, 32) for _ in range(16)), *(picture(32, 39) for _ in range(16))]
    prompts = ["a red cat"] * len(images)
    chosen = {name: rewards[name] for name in ("pickscore", "clip")}
    together = Scorer(chosen).score(images, prompts)
    for name, reward in chosen.items():
        alone = Scorer({name: reward}, batch_size=1).score(images, prompts)
        np.testing.assert_allclose(together.columns[name], alone.columns[name], rtol=0, atol=1e-5)


def test_different_towers_are_not_shared(rewards: dict[str, NetworkReward]) -> None:
    aesthetic = tiny.build("aesthetic", seed=1)
    share_towers([rewards["clip"], aesthetic])
    assert aesthetic.image_encoder is not rewards["clip"].image_encoder
    share_towers([rewards["clip"], rewards["aesthetic"]])
    assert rewards["aesthetic"].image_encoder is rewards["clip"].image_encoder


@pytest.mark.parametrize("batch_size", [1, 2, 64])
def test_an_unreadable_picture_does_not_move_the_others(
    images: list[bytes], rewards: dict[str, NetworkReward], batch_size: int
) -> None:
    scorer = Scorer(rewards, batch_size=batch_size)
    whole = scorer.score(images, PROMPTS)
    broken = scorer.score([images[0], images[1][:200], None, *images[3:]], PROMPTS)
    assert broken.errors.keys() == {1, 2}
    for name in NAMES:
        assert np.isnan(broken.columns[name]).tolist() == [False, True, True, False, False]
        np.testing.assert_allclose(
            broken.columns[name][[0, 3, 4]], whole.columns[name][[0, 3, 4]], rtol=0, atol=1e-5
        )


def test_no_pictures_give_empty_columns(rewards: dict[str, NetworkReward]) -> None:
    assert {column.shape for column in Scorer(rewards).score([], []).columns.values()} == {(0,)}


def test_one_picture_object_may_come_many_times(rewards: dict[str, NetworkReward]) -> None:
    lazy = Image.open(io.BytesIO(png(picture(200, 200))))
    scores = rewards["clip"].score([lazy] * 40, ["a red cat"] * 40)
    np.testing.assert_allclose(scores, scores[0], rtol=0, atol=1e-6)


def test_as_many_prompts_as_pictures(rewards: dict[str, NetworkReward]) -> None:
    with pytest.raises(TgoError, match="2 images and 1 prompts: give one prompt per image"):
        rewards["clip"].score([picture(32, 32)] * 2, ["a red cat"])


def test_scoring_unreadable_pictures_directly_is_an_error(rewards: dict[str, NetworkReward]) -> None:
    truncated = Image.open(io.BytesIO(png(picture(64, 64))[:2000]))
    with pytest.raises(TgoError, match="image 1 of 2 cannot be scored: OSError"):
        rewards["clip"].score([picture(32, 32), truncated], ["a", "b"])


def test_scoring_leaves_no_gradient_and_works_under_inference(rewards: dict[str, NetworkReward]) -> None:
    with torch.inference_mode():
        rewards["clip"].score([picture(32, 32)], ["a"])
    assert all(parameter.grad is None for parameter in rewards["clip"].parameters())
