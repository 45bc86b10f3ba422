"""Every stage where there are GPUs, which are pretended: it starts, and works on the one that it is told to use."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import yaml

from stages import run_stage
from tests.pretended_gpu import Machine, pretended
from tests.project import TOY
from tgo_pipeline.devices import resolve_device
from tgo_pipeline.errors import TgoError

REWARDS = ("hpsv2.1", "pickscore", "imagereward", "clip", "aesthetic")


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    with pretended(monkeypatch) as machine:
        yield machine


@pytest.mark.parametrize(("name", "device"), [("auto", "cuda:0"), ("cuda", "cuda:0"), ("cuda:1", "cuda:1")])
def test_a_gpu_has_an_index(machine: Machine, name: str, device: str) -> None:
    found = resolve_device(name)
    assert str(found) == device
    torch.cuda.set_device(found)
    assert machine.current == found.index
    assert str(resolve_device("cuda")) == device
    with pytest.raises(TgoError, match="'cuda:7' cannot be used by torch here"):
        resolve_device("cuda:7")


def test_the_pretended_gpu_refuses_what_a_gpu_does(machine: Machine) -> None:
    first, second = (torch.ones(2, device=f"cuda:{index}") for index in range(2))
    for wrong in (torch.ones(2), second):
        with pytest.raises(RuntimeError, match="on the same device"):
            first + wrong
    with pytest.raises(ValueError, match="specified index"):
        torch.cuda.set_device(torch.device("cuda"))
    with pytest.raises(TypeError, match="to numpy"):
        first.numpy()
    assert (first + torch.tensor(1.0)).cpu().tolist() == [2.0, 2.0]
    assert machine.used.keys() == {torch.device("cuda:0"), torch.device("cuda:1")}


@pytest.mark.parametrize(("device", "precision"), [("auto", "fp32"), ("cuda", "bf16"), ("cuda:1", "fp16")])
def test_every_stage_works_on_its_gpu(
    device: str, precision: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text(
        "a red circle on a white background\na blue square on a white background\n"
    )
    params = {
        "seed": 0,
        **TOY,
        "model": "demo",
        "prompts": {**TOY["prompts"], "limit": 6},
        "score": {"rewards": dict.fromkeys(REWARDS, "demo")},
        "fine_tune": {**TOY["fine_tune"], "steps": 2, "learning_rate": 1e-6, "precision": precision},
        "target": {"reward": "mean_z"},
        "label": {},
        "threshold": {"percentile": 0.5},
        "report": {"title": "GPU"},
        "runtime": {"device": device, "workers": 0},
    }
    file = tmp_path / "params.yaml"
    file.write_text(yaml.safe_dump(params))
    run_stage("prompts", file)
    for stage in ("generate", "score", "threshold", "label", "fine_tune", "evaluate", "report"):
        with pretended(monkeypatch) as machine:
            run_stage(stage, file)
        expected = torch.device("cuda", 1 if device == "cuda:1" else 0)
        assert machine.asked <= {expected}, stage
        if stage in ("generate", "score", "fine_tune", "evaluate"):
            assert machine.used.keys() == {expected}, stage
        else:
            assert not machine.used, stage
