"""How a model that draws is laid out on a GPU, which is pretended, and compiled: images stay what they are."""

from __future__ import annotations

import io
import logging
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from tests.generators.guided import Family
from tests.pretended_gpu import pretended
from tgo_pipeline.generators import generate_folder, load_pipeline, plan
from tgo_pipeline.generators.guidance import guided_pipeline
from tgo_pipeline.generators.sample import compile_network, lay_out_networks
from tgo_pipeline.params import GenerateParams, RuntimeParams
from tgo_pipeline.storage.tables import read_folder

JOB = {
    "prompts": [("p", "a cat"), ("q", "a dog")],
    "split": "train",
    "revision": None,
    "params": GenerateParams(guidance_scale=2.0, steps=3),
    "images_per_prompt": 2,
    "seed": 7,
    "purpose": "generate",
}
RUNTIME = RuntimeParams(device="cpu", threads=1, generate_batch_size=3)


def drawn(folder: Path, model: Path, runtime: RuntimeParams) -> np.ndarray:
    generate_folder(folder, **JOB, model=str(model), runtime=runtime)  # type: ignore[arg-type]
    images = [Image.open(io.BytesIO(row["bytes"])) for row in read_folder(folder)["image"]]
    return np.stack([np.asarray(image) for image in images]).astype(int)


def convolutions(network: nn.Module) -> list[torch.Tensor]:
    found = [each.weight for each in network.modules() if isinstance(each, nn.Conv2d)]
    return [
        weight for weight in found if weight.shape[1] > 1 and weight.shape[2] > 1
    ]  # else both orders are one


def test_convolutions_lie_channels_last_on_a_gpu_alone(
    pipeline_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = load_pipeline(str(pipeline_folder))
    lay_out_networks(pipeline)
    for part in (pipeline.unet, pipeline.vae):
        assert all(weight.is_contiguous() for weight in convolutions(part))
    with pretended(monkeypatch):
        pipeline.to("cuda:0")
        lay_out_networks(pipeline)
        for part in (pipeline.unet, pipeline.vae):
            weights = convolutions(part)
            assert weights and all(each.is_contiguous(memory_format=torch.channels_last) for each in weights)
        whole = load_pipeline(str(pipeline_folder)).unet.state_dict()
        assert all(torch.equal(each.cpu(), whole[name]) for name, each in pipeline.unet.state_dict().items())


def test_images_are_those_of_the_other_layout(
    pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pretended GPU computes channels last for once, with the CPU's kernels for it."""
    expected = drawn(tmp_path / "cpu", pipeline_folder, RUNTIME)
    with pretended(monkeypatch):
        found = drawn(tmp_path / "gpu", pipeline_folder, replace(RUNTIME, device="cuda"))
    assert np.abs(found - expected).max() <= 1
    assert expected.std() > 10


def test_a_compiled_network_draws_the_same(
    pipeline_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Up to the generator of machine code, which takes minutes for a U-Net on a CPU."""
    compile_module, compiled = nn.Module.compile, []

    def compile_quickly(module: nn.Module) -> None:
        compiled.append(type(module).__name__)
        compile_module(module, backend="aot_eager")

    monkeypatch.setattr(nn.Module, "compile", compile_quickly)
    expected = drawn(tmp_path / "eager", pipeline_folder, RUNTIME)
    assert not compiled
    found = drawn(tmp_path / "compiled", pipeline_folder, replace(RUNTIME, compile=True))
    assert compiled == ["UNet2DConditionModel"]
    assert np.abs(found - expected).max() <= 1
    shards = [plan(**JOB, model=str(pipeline_folder))[0] for _ in range(2)]  # type: ignore[arg-type]
    assert shards[0] == shards[1]


def test_a_guided_network_is_not_compiled(sd: Family, caplog: pytest.LogCaptureFixture) -> None:
    pipeline = guided_pipeline(str(sd.base), sd.positive, sd.negative, strength=1.0)
    with caplog.at_level(logging.INFO, "tgo"):
        compile_network(pipeline)
    assert "runtime.compile is of no effect on a guided model" in caplog.text
    assert all(module._compiled_call_impl is None for module in pipeline.unet.modules())
