"""Wan imagined against its real pipeline at tiny size, and what a plan says of clips."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from fine_tune.policies import family_of
from fine_tune.policies.wan import WanEncoder
from stages.commands import plan as command
from tests.tiny_families import tiny_wan_pipeline
from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.video_files import lossless, preview
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.generators.sample import Sampler
from tgo_pipeline.params import FineTuneParams, GenerateParams, Params, parse
from tgo_pipeline.planning import disk
from tgo_pipeline.planning.blueprint import read_blueprint
from tgo_pipeline.planning.gpus import Device
from tgo_pipeline.planning.meter import Meter
from tgo_pipeline.planning.sampling import drawing, encoding

BATCH, SIDE, FRAMES = 2, 32, 9
SIZE = GenerateParams(guidance_scale=2.0, steps=3, width=SIDE, height=SIDE, frames=FRAMES)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(tiny_wan_pipeline(tmp_path_factory.mktemp("wan")))


def params(model: str, **runtime: Any) -> Params:
    return parse(
        Params,
        {
            "model": model,
            "prompts": {"train": "train.txt", "test_fraction": 0.5},
            "generate": {**dataclasses.asdict(SIZE), "images_per_prompt": 2},
            "score": {"rewards": {"pickscore": "demo", "motion": None}, "frames": 4},
            "target": {"reward": "pickscore"},
            "fine_tune": {"method": "lora", "steps": 2, "batch_size": 4},
            "runtime": {"device": "cpu", "generate_batch_size": BATCH, **runtime},
        },
    )


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_drawing_costs_what_it_costs_in_reality(model: str, precision: Any) -> None:
    size = dataclasses.replace(SIZE, precision=precision)
    planned = drawing(family_of(read_blueprint(model), size, FineTuneParams()), size, BATCH)
    pipeline = load_pipeline(model, precision=precision)
    meter = Meter()
    weights = meter.hold(
        *(part for part in pipeline.components.values() if isinstance(part, torch.nn.Module))
    )
    with meter:
        list(Sampler(pipeline, size, BATCH).images(["a red circle"] * BATCH, range(BATCH)))
    assert planned.flops_per_image * BATCH == pytest.approx(meter.flops, rel=1e-6)
    assert planned.weight_bytes == weights
    assert planned.peak_bytes == pytest.approx(meter.peak_bytes, rel=0.15)


def test_encoding_costs_what_it_costs_and_holds_what_it_holds(model: str) -> None:
    family = family_of(read_blueprint(model), SIZE, FineTuneParams())
    cache = encoding(family, BATCH)
    encoder = WanEncoder(load_pipeline(model), (SIDE, SIDE))
    clips = [np.zeros((FRAMES, SIDE, SIDE, 3), np.uint8)] * BATCH
    texts = ["a red circle"] * BATCH
    for planned, cost, work in (
        (cache.image, cache.per_image, lambda: encoder.images(clips)),
        (None, cache.per_prompt, lambda: encoder.prompts(texts)),
    ):
        with Meter() as meter:
            made = work()
        assert planned in (None, {name: (tuple(t.shape[1:]), t.dtype) for name, t in made.items()})
        assert cost.flops * BATCH == pytest.approx(meter.flops, rel=1e-6)
    ((tokens, width), _) = family.cached(cache.prompt, texts)["embeddings"]
    assert (tokens, width) == (1 + 12 // 4, cache.prompt["embeddings"][0][1])


def test_the_command_counts_clips(model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "train.txt").write_text("".join(f"clip number {number}\n" for number in range(8)))
    monkeypatch.chdir(tmp_path)
    small = Device("small", 1.0, 1.0, 1e-4, "made up")
    plan = command.make(params(model), small)
    draw, score = plan.stage("generate"), plan.stage("score")
    assert draw.work == "8 clips of 32x32x9" and plan.stage("evaluate").work.endswith("clips each")
    assert plan.stage("fine_tune").disk == "about"
    fewer = dataclasses.replace(params(model), score=dataclasses.replace(params(model).score, frames=1))
    assert (
        score.flops > 2 * command.make(fewer, small).stage("score").flops
    )  # images four times, prompts once
    (said,) = [warning for warning in plan.warnings if "enable_tiling" in warning]
    assert said.startswith("one clip of 32x32x9 takes ")


def test_frames_that_the_model_does_not_draw_cannot_be_planned(model: str) -> None:
    with pytest.raises(TgoError, match=r"generate.frames is 8: WanPipeline draws a multiple of 4"):
        family_of(read_blueprint(model), dataclasses.replace(SIZE, frames=8), FineTuneParams())


def test_no_clip_is_larger_than_the_bound() -> None:
    for side, frames in ((16, 5), (64, 9), (300, 5)):
        noise = np.random.default_rng(side).integers(0, 256, (frames, side, side + 20, 3), dtype=np.uint8)
        size = len(lossless(noise, 8)[0]) + len(preview(noise, 8) or b"")
        bound = disk.clip_most_bytes(side + 20, side, frames)
        assert size <= bound < 3 * size + 20_000
