"""A compiled network trains as an eager one, keeps its names, and saves what an eager one does.

Captured by dynamo and differentiated by AOT autograd, which is where a network may go wrong; the last stage, generating
C++ or Triton, is left out (minutes for a U-Net on a CPU, which `benchmarks/training/speed.py --parts compile` takes).
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch

from fine_tune import stage
from tests.fine_tune import world
from tests.fine_tune.runs import results, train, trajectory

FINE_TUNE = {"steps": 2, "learning_rate": 1e-4, "method": "lora"}


@pytest.fixture
def quick_backend(monkeypatch: pytest.MonkeyPatch) -> list[torch.nn.Module]:
    """Compile without generating code; the modules that were compiled."""
    compile_module, compiled = torch.nn.Module.compile, []

    def compile_quickly(module: torch.nn.Module) -> None:
        compiled.append(module)
        compile_module(module, backend="aot_eager")

    monkeypatch.setattr(torch.nn.Module, "compile", compile_quickly)
    return compiled


def test_a_compiled_network_trains_as_an_eager_one(
    source: Path, tmp_path: Path, quick_backend: list[torch.nn.Module]
) -> None:
    params = world.params(source / "model", **FINE_TUNE)
    params = dataclasses.replace(params, runtime=dataclasses.replace(params.runtime, compile=True))
    stage.run(params, world.workspace(world.joined_places(source, tmp_path / "compiled")))
    assert len(quick_backend) == 1  # an adapter's reference is the same network
    train(source, tmp_path / "eager", FINE_TUNE)
    expected, found = trajectory(tmp_path / "eager"), trajectory(tmp_path / "compiled")
    assert found.keys() == expected.keys()
    for metric, values in expected.items():
        assert found[metric] == pytest.approx(values, rel=1e-3, abs=1e-6), metric
    eager, compiled = results(tmp_path / "eager"), results(tmp_path / "compiled")
    assert eager.keys() == compiled.keys()
    for name, tensor in eager.items():
        torch.testing.assert_close(compiled[name], tensor, rtol=1e-3, atol=1e-5)
