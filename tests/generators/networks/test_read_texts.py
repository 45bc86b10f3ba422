"""Text encoders that are put aside: the same images to the byte, of prompts that were read without the network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.generators.guided import BUILDERS, COMPONENT
from tests.tiny import IMAGE_SIZE
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.generators.networks.finite import TEXT_ENCODERS
from tgo_pipeline.generators.networks.read_texts import put_aside
from tgo_pipeline.generators.sample import Sampler
from tgo_pipeline.params import GenerateParams

PARAMS = GenerateParams(guidance_scale=2.0, steps=2, width=IMAGE_SIZE, height=IMAGE_SIZE)
PROMPTS, SEEDS = ["a cat", "a dog", "a cat"], [1, 2, 3]


@pytest.fixture(scope="module", params=BUILDERS)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    return request.param, BUILDERS[request.param](tmp_path_factory.mktemp(request.param))


def drawn(sampler: Sampler, prompts: list[str] = PROMPTS) -> list[bytes]:
    return [image.tobytes() for image in sampler.images(prompts, SEEDS[: len(prompts)])]


def encoders(pipeline: Any) -> Iterator[Any]:
    return filter(None, (getattr(pipeline, name, None) for name in TEXT_ENCODERS))


def test_prompts_are_read_once_and_without_the_network(family: tuple[str, Path]) -> None:
    name, folder = family
    pipeline: Any = load_pipeline(str(folder))
    expected = drawn(Sampler(pipeline, PARAMS, 2))
    network, calls = getattr(pipeline, COMPONENT[name]), []
    for encoder in encoders(pipeline):
        encoder.register_forward_hook(lambda *_: calls.append(1))
    put_aside(pipeline, torch.device("cpu"))
    sampler = Sampler(pipeline, PARAMS, 2)
    setattr(pipeline, COMPONENT[name], network.__class__.from_config(network.config).to("meta"))
    sampler.read(PROMPTS)
    setattr(pipeline, COMPONENT[name], network)
    read = len(calls)
    assert read
    assert drawn(sampler) == drawn(sampler) == expected
    assert len(calls) == read


def test_what_was_not_read_is_read_where_the_encoder_waits(family: tuple[str, Path]) -> None:
    _, folder = family
    pipeline: Any = load_pipeline(str(folder))
    expected = drawn(Sampler(pipeline, PARAMS, 2), ["a fox"])
    put_aside(pipeline, torch.device("cpu"))
    sampler = Sampler(pipeline, PARAMS, 2)
    sampler.read(PROMPTS)
    assert drawn(sampler, ["a fox"]) == expected
