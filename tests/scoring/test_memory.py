"""Which rewards fit together, said without opening a GPU that several processes are going to open."""

from __future__ import annotations

import pytest
import torch

from tgo_pipeline import devices
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.rewards.specs import resolve_all
from tgo_pipeline.scoring import memory


def test_the_parent_of_several_processes_opens_no_device(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process believes that there is a GPU; the one that it asks sees that there is none."""

    def refuse(name: str) -> torch.device:
        raise AssertionError("the device was opened")

    wanted = resolve_all({"clip": "demo", "aesthetic": "demo"})
    runtime = RuntimeParams(processes=2, score_memory_gb=1.0)
    expected = memory.groups(wanted, "fp32", RuntimeParams(device="cpu", score_memory_gb=1.0))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for module in (devices, memory):
        monkeypatch.setattr(module, "resolve_device", refuse)
    assert memory.groups(wanted, "fp32", runtime) == expected
    with pytest.raises(AssertionError, match="was opened"):
        memory.groups(wanted, "fp32", RuntimeParams(score_memory_gb=1.0))
