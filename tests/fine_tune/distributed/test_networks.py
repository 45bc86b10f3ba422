"""Which modules of a network are sharded by themselves, as accelerate's configuration asks."""

from __future__ import annotations

from pathlib import Path

import pytest
from accelerate.utils.dataclasses import FullyShardedDataParallelPlugin
from torch import nn

from fine_tune.distributed.networks import units
from tgo_pipeline.generators import load_pipeline

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
