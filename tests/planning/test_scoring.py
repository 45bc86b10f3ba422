"""Rewards imagined against rewards that score."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.rewards.vision_language.tiny import write_hpsv3
from tgo_pipeline.planning.meter import Meter
from tgo_pipeline.planning.scoring import scoring
from tgo_pipeline.rewards import load_reward
from tgo_pipeline.rewards.engine.scorer import Scorer
from tgo_pipeline.rewards.specs import resolve_all

REWARDS = ("hpsv2.1", "pickscore", "imagereward", "clip", "aesthetic")
PROMPTS = ["a red circle", "a blue square on a white background", "a small green triangle above a circle"]


def test_scoring_costs_what_it_costs_in_reality() -> None:
    batch, count = 6, 12
    planned = scoring(resolve_all(dict.fromkeys(REWARDS, "demo")), PROMPTS, batch)
    rewards = {name: load_reward(name, "demo") for name in REWARDS}
    meter = Meter()
    with Scorer(rewards, batch_size=batch) as scorer, meter:
        meter.hold(*rewards.values())
        images = [Image.new("RGB", (32, 32))] * count
        scorer.score(images, [PROMPTS[number % 3] for number in range(count)])
    flops = planned.flops_per_image * count + planned.flops_per_prompt * len(PROMPTS)
    assert flops == pytest.approx(meter.flops, rel=0.01)
    assert planned.peak_bytes == pytest.approx(meter.peak_bytes, rel=0.15)


def test_official_rewards_are_planned_without_any_file() -> None:
    planned = scoring(resolve_all({"pickscore": None, "clip": None, "aesthetic": None}), PROMPTS, 2, "fp32")
    vit_h_14, vit_l_14, head = 986_109_441, 427_616_513, 925_441
    assert planned.weight_bytes == pytest.approx(4 * (vit_h_14 + vit_l_14 + head), rel=1e-3)
    assert planned.unknown == ()


def test_hpsv3_costs_what_it_costs_in_reality(tmp_path: Path) -> None:
    folder = str(write_hpsv3(tmp_path)[0])
    planned = scoring(resolve_all({"hpsv3": folder}), PROMPTS, 20)
    reward: Any = load_reward("hpsv3", folder)
    meter = Meter()
    with Scorer({"hpsv3": reward}, batch_size=3) as scorer, meter:
        meter.hold(reward)
        scorer.score([Image.new("RGB", (448, 448), (place, 0, 0)) for place in range(3)], PROMPTS)
    assert 3 * planned.flops_per_image == pytest.approx(meter.flops, rel=0.05)
    assert planned.weight_bytes == sum(each.nbytes for each in (*reward.parameters(), *reward.buffers()))


def test_official_vision_language_models_have_their_published_size() -> None:
    """The file has the head in float32, the rest in bf16, and what predicts words, which is not loaded."""
    planned = scoring(resolve_all({"hpsv3": None}), PROMPTS, 20, "fp32")
    words = 151_658 * 3584
    assert planned.weight_bytes / 2 + 2 * words == pytest.approx(16_584_387_300, rel=1e-3)
    half = scoring(resolve_all({"hpsv3": None, "clip": None}), PROMPTS, 20, "fp16")
    assert half.weight_bytes < 0.7 * planned.weight_bytes and half.unknown == ()
    assert half.flops_per_image > planned.flops_per_image


def test_a_reward_of_ones_own_is_named_and_not_counted() -> None:
    planned = scoring(resolve_all({"mine": "tests.rewards.tiny:write", "clip": "demo"}), PROMPTS, 2)
    assert planned.unknown == ("mine",)
