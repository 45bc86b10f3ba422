"""An imagined update with a reward's gradient against a real one: operations and memory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fine_tune.footprint import training
from fine_tune.policies import family_of
from tests.fine_tune.reward_backprop.chains import PROMPTS, build
from tests.tiny import tiny_diffusion_pipeline
from tgo_pipeline.params import Params, parse
from tgo_pipeline.planning.blueprint import read_blueprint
from tgo_pipeline.planning.meter import Meter
from tgo_pipeline.planning.sampling import encoding
from tgo_pipeline.rewards import load_reward

CASES: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "draft": ("draft", {"steps": 5, "guidance_scale": 2.0, "last": 3}, {}),
    "draft_lv": ("draft_lv", {"steps": 4, "guidance_scale": 2.0, "repeats": 2}, {}),
    "refl": ("refl", {"steps": 6, "earliest": 4, "latest": 4}, {}),
    "recomputed": ("draft", {"steps": 5, "last": 3, "kl": 0.1}, {"gradient_checkpointing": True}),
}


@pytest.mark.parametrize("case", CASES)
def test_an_update_costs_what_it_costs_in_reality(case: str, tmp_path: Path) -> None:
    objective, own, runtime = CASES[case]
    folder = tiny_diffusion_pipeline(tmp_path / "model")
    raw = {
        "model": str(folder),
        "prompts": {"test_fraction": 0.5},
        "score": {"rewards": {"clip": "demo"}},
        "target": {"reward": "clip"},
        "fine_tune": {"objective": objective, objective: own, "batch_size": len(PROMPTS)},
        "runtime": {"device": "cpu", **runtime},
    }
    params = parse(Params, raw)
    family = family_of(read_blueprint(params.model), params.generate, params.fine_tune)
    planned = training(family, encoding(family, 1), params)
    reward: Any = load_reward("clip", "demo")
    world = build(folder, objective, own, runtime, reward)
    if runtime:
        world.policy.save_memory()
    meter = Meter()
    meter.hold(*world.policy.networks, world.pipeline.vae, reward)
    with meter:
        world.gradient.of(world.part, world.policy.network.zero_grad)
        meter.restart_peak()
        meter.flops = 0.0
        world.gradient.of(world.part, world.policy.network.zero_grad)
    assert planned.flops_per_step == pytest.approx(meter.flops, rel=0.05)
    without_state = planned.peak_bytes - planned.optimizer_bytes
    assert without_state == pytest.approx(meter.peak_bytes, rel=0.15)
