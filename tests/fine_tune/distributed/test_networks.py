"""Which modules of a network are sharded by themselves, as accelerate's configuration asks."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from accelerate.utils.dataclasses import FullyShardedDataParallelPlugin
from torch import distributed, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor

from fine_tune.distributed.networks import Spread, _shard, units
from fine_tune.distributed.processes import Group
from fine_tune.policies.base import base_precision, on_files
from fine_tune.policies.diffusion import DiffusionPolicy
from tgo_pipeline.generators import load_pipeline
from tgo_pipeline.generators.networks.held import Held
from tgo_pipeline.params import FineTuneParams
from tgo_pipeline.params.checks import Precision

SIZE = 2000


@pytest.fixture
def network(model: Path) -> nn.Module:
    return load_pipeline(str(model)).unet


@pytest.fixture
def chosen(network: nn.Module, monkeypatch: pytest.MonkeyPatch):
    """The units by a policy of the configuration, as the launcher passes it on."""

    def under(policy: str) -> list[nn.Module]:
        settings = {"FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": policy, "FSDP_MIN_NUM_PARAMS": str(SIZE)}
        for name, value in settings.items():
            monkeypatch.setenv(name, value)
        return units(network, FullyShardedDataParallelPlugin())

    return under


def test_units_are_the_layers_that_the_network_names(network: nn.Module, chosen) -> None:
    names = set(network._no_split_modules)  # type: ignore[arg-type]
    expected = [each for each in network.modules() if type(each).__name__ in names]
    assert expected and chosen("TRANSFORMER_BASED_WRAP") == expected[::-1]


def test_units_by_size_are_large_enough_and_have_a_forward_of_their_own(network: nn.Module, chosen) -> None:
    found = chosen("SIZE_BASED_WRAP")
    large = [m for m in network.modules() if sum(p.numel() for p in m.parameters()) >= SIZE]
    lists = [m for m in large if isinstance(m, nn.ModuleList)]
    assert lists, "there is a list of layers that is large, which torch cannot shard"
    assert found == [m for m in large if m not in lists and m is not network][::-1]


def test_without_a_policy_the_network_is_one_unit(chosen) -> None:
    assert chosen("NO_WRAP") == []


@pytest.fixture
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A group of this process, under a launcher that shards transformer blocks."""
    settings = {"FSDP_VERSION": "2", "FSDP_AUTO_WRAP_POLICY": "TRANSFORMER_BASED_WRAP"}
    for name, value in {**settings, "FSDP_RESHARD_AFTER_FORWARD": "true"}.items():
        monkeypatch.setenv(name, value)
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path / 'meeting'}", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("checkpointing", [False, True])
def test_halves_that_are_gathered_are_what_autocast_would_make_of_the_whole(
    model: Path, alone: None, checkpointing: bool
) -> None:
    """Answers of one process and gradients of shards that are gathered as float32, to the bit; of moved norms too.

    Shards change the order of sums where three gradients meet, however they are gathered.
    """
    params = FineTuneParams(precision="bf16", steps=1)
    in_one, in_float32, in_half = (_moved(model, params, checkpointing) for _ in range(3))
    for network in in_float32.networks:
        _shard(network, init_device_mesh("cpu", (1,)), "bf16", None)
    Spread(in_half, Group(sharded=True), torch.device("cpu"))
    gathered: dict[str, set[torch.dtype]] = {"product": set(), "norm": set()}
    for module in in_half.network.modules():
        if isinstance(module, (nn.Conv2d, nn.Linear, nn.LayerNorm, nn.GroupNorm)):
            kind = "norm" if isinstance(module, (nn.LayerNorm, nn.GroupNorm)) else "product"
            module.register_forward_pre_hook(lambda m, _, kind=kind: gathered[kind].add(m.weight.dtype))
    (one, _), (plain, wanted), (halves, found) = (_learn(each) for each in (in_one, in_float32, in_half))
    assert gathered == {"product": {torch.bfloat16}, "norm": {torch.float32}}
    assert all(
        torch.equal(*pair) for pair in (*zip(one, halves, strict=True), *zip(plain, halves, strict=True))
    )
    assert found.keys() == wanted.keys() and len(found) > 50
    for name, gradient in wanted.items():
        assert found[name].dtype == torch.float32 and torch.equal(found[name], gradient), name


def _moved(model: Path, params: FineTuneParams, checkpointing: bool) -> DiffusionPolicy:
    """A policy off its reference."""
    policy = DiffusionPolicy.build(load_pipeline(str(model)), params, seed=1, with_reference=True)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in policy.network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    if checkpointing:
        policy.save_memory()
        policy.network.train()
    return policy


def _learn(policy: DiffusionPolicy) -> tuple[list[torch.Tensor], dict[str, torch.Tensor]]:
    """What policy and reference say, and the gradients."""
    generator = torch.Generator().manual_seed(6)
    images = {"latents": torch.randn(2, 4, 8, 8, generator=generator)}
    width = policy.network.config["cross_attention_dim"]  # type: ignore[index]
    conditions = {"embeddings": torch.randn(2, 5, width, generator=generator)}
    corruption = policy.corrupt(images, conditions, [1, 2])
    with torch.autocast("cpu", torch.bfloat16):
        prediction = policy.predict(corruption)
        with policy.reference():
            reference = policy.predict(corruption)
    prediction.square().mean().backward()
    gradients = {name: whole(p.grad) for name, p in policy.trainable().items() if p.grad is not None}
    return [prediction.detach(), reference], gradients


def whole(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
def test_shards_of_a_file_are_those_of_the_network_in_memory(
    model: Path, alone: None, tmp_path: Path, method: str, precision: Precision, stored: torch.dtype
) -> None:
    """A unit is converted when it is cut: to what the whole network would have been converted to before."""
    pipeline = load_pipeline(str(model))
    pipeline.to(stored)
    pipeline.save_pretrained(tmp_path / "model")
    params = FineTuneParams(precision=precision, method=method, steps=1)
    in_memory, cut = (
        {
            f"{number} {name}": (whole(p.detach()), p.requires_grad)
            for number, network in enumerate(networks)
            for name, p in network.named_parameters()
        }
        for networks in (
            _policy(tmp_path / "model", params, base_precision(params)).networks,
            _cut(tmp_path / "model", params).networks,
        )
    )
    assert in_memory.keys() == cut.keys()
    for name, (tensor, trained) in in_memory.items():
        assert (cut[name][0].dtype, cut[name][1]) == (tensor.dtype, trained), name
        assert torch.equal(cut[name][0], tensor), name


def _policy(folder: Path, params: FineTuneParams, held: Held) -> DiffusionPolicy:
    return DiffusionPolicy.build(load_pipeline(str(folder), held=held), params, seed=1, with_reference=True)


def _cut(folder: Path, params: FineTuneParams) -> DiffusionPolicy:
    with on_files():
        policy = _policy(folder, params, "stored")
    Spread(policy, Group(sharded=True), torch.device("cpu"))
    return policy
