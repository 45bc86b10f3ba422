"""Every family imagined against its real pipeline at tiny size: operations, weights, memory, cached tensors."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from fine_tune.policies import family_of, policy_class
from tests.generators.guided import BUILDERS
from tests.tiny import tiny_diffusion_pipeline
from tgo_pipeline.errors import TgoError
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.generators.networks.finite import TEXT_ENCODERS
from tgo_pipeline.generators.networks.read_texts import put_aside
from tgo_pipeline.generators.sample import Sampler
from tgo_pipeline.params import FineTuneParams, GenerateParams
from tgo_pipeline.planning.blueprint import Blueprint, read_blueprint
from tgo_pipeline.planning.meter import Meter
from tgo_pipeline.planning.sampling import drawing, encoding

BATCH = 4
TUNING = FineTuneParams()
SIZE = GenerateParams(guidance_scale=2.0, steps=3, width=32, height=32)


@pytest.fixture(scope="module", params=BUILDERS)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(BUILDERS[request.param](tmp_path_factory.mktemp(request.param)))


def test_drawing_and_encoding_cost_what_they_cost_in_reality(model: str) -> None:
    family = family_of(read_blueprint(model), SIZE, TUNING)
    planned, cache = drawing(family, SIZE, BATCH), encoding(family, BATCH)
    pipeline = load_pipeline(model)
    meter = Meter()
    weights = meter.hold(*_networks(pipeline))
    with meter:
        list(Sampler(pipeline, SIZE, BATCH).images(["a red circle"] * BATCH, range(BATCH)))
    assert planned.flops_per_image * BATCH == pytest.approx(meter.flops, rel=1e-6)
    assert planned.weight_bytes == weights
    assert planned.peak_bytes == pytest.approx(meter.peak_bytes, rel=0.15)
    _compare_cache(pipeline, cache)


def test_prompts_that_were_read_leave_their_encoders_out(model: str) -> None:
    family = family_of(read_blueprint(model), SIZE, TUNING)
    planned, whole = drawing(family, SIZE, BATCH, read=True), drawing(family, SIZE, BATCH)
    pipeline: Any = load_pipeline(model)
    texts = sum(_bytes(encoder) for name in TEXT_ENCODERS if (encoder := getattr(pipeline, name, None)))
    put_aside(pipeline, torch.device("cpu"))
    sampler = Sampler(pipeline, SIZE, BATCH)
    sampler.read(["a red circle"] * BATCH)
    meter = Meter()
    weights = meter.hold(*_networks(pipeline))
    with meter:
        list(sampler.images(["a red circle"] * BATCH, range(BATCH)))
    assert planned.flops_per_image * BATCH == pytest.approx(meter.flops, rel=1e-6)
    assert planned.weight_bytes == weights == pytest.approx(whole.weight_bytes - texts, rel=0.01)
    assert planned.peak_bytes == pytest.approx(meter.peak_bytes, rel=0.15)


def _bytes(network: torch.nn.Module) -> int:
    return sum(p.numel() * p.element_size() for p in network.parameters())


def test_half_precision_takes_half_the_memory_for_the_same_operations(model: str) -> None:
    halved = dataclasses.replace(SIZE, precision="bf16")
    family = family_of(read_blueprint(model), halved, TUNING)
    planned, full = drawing(family, halved, BATCH), drawing(family, SIZE, BATCH)
    pipeline = load_pipeline(model, precision="bf16")
    meter = Meter()
    weights = meter.hold(*_networks(pipeline))
    with meter:
        list(Sampler(pipeline, halved, BATCH).images(["a red circle"] * BATCH, range(BATCH)))
    assert planned.flops_per_image * BATCH == pytest.approx(meter.flops, rel=1e-6)
    assert planned.weight_bytes == weights == pytest.approx(full.weight_bytes / 2, rel=0.01)
    assert planned.peak_bytes == pytest.approx(meter.peak_bytes, rel=0.15)
    assert torch.get_default_dtype() == torch.float32


def _compare_cache(pipeline: Any, cache: Any) -> None:
    encoder = policy_class(pipeline).encoder(pipeline, (SIZE.width, SIZE.height))
    for planned, cost, work in (
        (cache.image, cache.per_image, lambda: encoder.images([Image.new("RGB", (32, 32))] * BATCH)),
        (cache.prompt, cache.per_prompt, lambda: encoder.prompts(["a red circle"] * BATCH)),
    ):
        with Meter() as meter:
            made = work()
        assert {name: (tuple(t.shape[1:]), t.dtype) for name, t in made.items()} == planned
        assert cost.flops * BATCH == pytest.approx(meter.flops, rel=1e-6)


def _networks(pipeline: Any) -> list[torch.nn.Module]:
    return [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]


def test_guidance_by_modules_runs_the_network_once_more_for_each() -> None:
    from tgo_pipeline.params import GuidanceParams

    guidance = GuidanceParams(kind="cpgd", positive="a", negative="b")
    plain = GenerateParams(steps=50)
    family = family_of(read_blueprint("demo"), plain, TUNING)
    alone = drawing(family, plain, 1)
    guided = drawing(family, GenerateParams(steps=50, guidance=guidance), 1)
    assert guided.flops_per_image == pytest.approx(3 * alone.flops_per_image, rel=0.02)
    assert guided.weight_bytes > alone.weight_bytes


def test_a_scheduler_that_calls_the_network_more_often_is_asked(tmp_path: Path) -> None:
    from diffusers import PNDMScheduler

    blueprint = read_blueprint(str(tiny_diffusion_pipeline(tmp_path)))
    changed = Blueprint(
        blueprint.model,
        blueprint.kind,
        {**blueprint.classes, "scheduler": "PNDMScheduler"},
        {**blueprint.configs, "scheduler": dict(PNDMScheduler(skip_prk_steps=True).config)},
        blueprint.index,
    )
    assert family_of(changed, SIZE, TUNING).calls(50) == 51


def test_other_pipelines_are_refused_with_those_that_can_be_planned() -> None:
    with pytest.raises(TgoError, match=r"KandinskyPipeline.*StableDiffusionPipeline"):
        family_of(Blueprint("m", "KandinskyPipeline", {}, {}), SIZE, TUNING)
