"""The whole fine_tune stage on clips: a training that is interrupted goes on to the same bits; shards of a network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file
from torch import distributed
from torch.distributed.tensor import DTensor

from fine_tune import stage
from fine_tune.data.tensors import read_tensors
from fine_tune.distributed.networks import Spread
from fine_tune.distributed.processes import Group
from fine_tune.policies import policy_class
from tests.fine_tune import world
from tests.rounding import assert_same_numbers
from tests.tiny_families import tiny_wan_pipeline
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.generators.sample import stored
from tgo_pipeline.params import FineTuneParams
from tgo_pipeline.storage.tables import VIDEO_GENERATIONS, write_table

SIZE, FRAMES = 16, 5
WRITTEN = {
    "full": "transformer/diffusion_pytorch_model.safetensors",
    "lora": "pytorch_lora_weights.safetensors",
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_wan_pipeline(tmp_path_factory.mktemp("wan"))


@pytest.fixture
def clips(places: dict[str, Path], tmp_path: Path) -> dict[str, Path]:
    """The world's places with clips in place of its images, under the same names."""
    folder = tmp_path / "clips"
    folder.mkdir()
    for shard in range(world.SHARDS):
        numbers = range(shard * world.SAMPLES // world.SHARDS, (shard + 1) * world.SAMPLES // world.SHARDS)
        rows = [row(*divmod(number, world.PER_PROMPT)) for number in numbers]
        name = f"train-{shard:05d}-of-{world.SHARDS:05d}.parquet"
        write_table(pa.Table.from_pylist(rows, VIDEO_GENERATIONS), folder / name, {"fingerprint": name})
    return places | {"generations": folder}


def row(number: int, index: int) -> dict[str, Any]:
    found = world.generation(number, index)
    clip = np.random.default_rng([number, index]).integers(0, 256, (FRAMES, SIZE, SIZE, 3), dtype=np.uint8)
    return {name: value for name, value in found.items() if name != "image"} | stored(
        found["sample_id"], clip, 8.0
    )


@pytest.mark.parametrize("method", ["full", "lora"])
def test_a_training_on_clips_resumes_exactly(
    method: str, model: Path, clips: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    size = {"width": SIZE, "height": SIZE, "frames": FRAMES, "guidance_scale": 2.0}
    options = {"steps": 3, "checkpoint_every": 1, "caption_dropout": 0.3, "learning_rate": 0.05}
    params = world.params(model, size, method=method, validation={"every": 2, "prompts": 1}, **options)
    stage.run(params, world.workspace(clips))
    latents = read_tensors(next(clips["encoded"].glob("train-*")))[0]["latents"]
    assert latents.shape == (world.SAMPLES // world.SHARDS, 16, 2, 2, 2)
    broken = clips | {name: tmp_path / "again" / name for name in ("checkpoints", "model", "training")}
    world.break_off(monkeypatch, params, broken)
    stage.run(params, world.workspace(broken))
    whole, resumed = (load_file(each["model"] / WRITTEN[method]) for each in (clips, broken))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    before = load_file(model / WRITTEN["full"]) if method == "full" else {}
    assert any(not torch.equal(before.get(name, torch.zeros_like(t)), t) for name, t in whole.items())


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A group of this process, under a launcher that shards transformer blocks."""
    settings = {"FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
    for name, value in {**settings, "FSDP_RESHARD_AFTER_FORWARD": "true"}.items():
        monkeypatch.setenv(name, value)
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_shards_of_the_network_answer_and_learn_as_the_whole(
    method: str, precision: str, model: Path, alone: None
) -> None:
    params = FineTuneParams(precision=precision, method=method, steps=1)  # type: ignore[arg-type]
    answers, gradients = [], []
    for sharded in (False, True):
        pipeline = load_pipeline(str(model))
        policy: Any = policy_class(pipeline).build(pipeline, params, seed=1, with_reference=True)
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            for parameter in policy.trainable().values():
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
        if sharded:
            Spread(policy, Group(sharded=True), torch.device("cpu"))
            blocks = [
                module
                for module in policy.network.modules()
                if type(module).__name__.endswith("WanTransformerBlock")
            ]
            assert len(blocks) == 2 and all(
                isinstance(p, DTensor) for block in blocks for p in block.parameters()
            )
        images = {"latents": torch.randn(2, 16, 2, 2, 2, generator=generator)}
        states = {"embeddings": torch.randn(2, 5, policy.network.config["text_dim"], generator=generator)}
        corruption = policy.corrupt(images, states, [1, 2])
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            prediction = policy.predict(corruption)
            with policy.reference():
                reference = policy.predict(corruption)
        prediction.square().mean().backward()
        answers.append((prediction.detach(), reference.detach()))
        gradients.append(
            {name: whole(p.grad) for name, p in policy.trainable().items() if p.grad is not None}
        )
    for one, other in zip(*answers, strict=True):
        assert_same_numbers(other, one)
    assert gradients[0].keys() == gradients[1].keys() and gradients[0]
    scale = max(float(gradient.abs().max()) for gradient in gradients[0].values())
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(
            gradients[1][name], gradient, rtol=2e-2 if precision == "bf16" else 1e-4, atol=1e-3 * scale
        )


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
