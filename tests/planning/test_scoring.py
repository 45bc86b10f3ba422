"""Rewards imagined against rewards that score."""

from __future__ import annotations

import pytest
from PIL import Image

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


def test_a_reward_of_ones_own_is_named_and_not_counted() -> None:
    planned = scoring(resolve_all({"mine": "tests.rewards.tiny:write", "clip": "demo"}), PROMPTS, 2)
    assert planned.unknown == ("mine",)
