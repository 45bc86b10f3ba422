"""What a process asks of the machine."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from tgo_pipeline import devices
from tgo_pipeline.devices import fetch

FAULTS = """
import resource, torch
from tgo_pipeline.devices import keep_freed_memory
if {keep}:
    keep_freed_memory()
torch.set_num_threads(1)
def work():
    for _ in range(10):
        (torch.empty(32, 2**20).fill_(1.0) + 1).sum()
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc gives large memory back at once")
def test_kept_memory_is_not_fetched_again_page_by_page() -> None:
    def faults(keep: bool) -> int:
        done = subprocess.run(
            [sys.executable, "-c", FAULTS.format(keep=keep)], capture_output=True, text=True, check=True
        )
        return int(done.stdout)

    assert faults(keep=True) < faults(keep=False) / 10


VERSION_1 = "3:memory:/job\n2:cpu,cpuacct:/batch/job\n1:name=systemd:/other\n"
QUOTAS: dict[str, tuple[str, dict[str, str], int]] = {
    "no quota": ("0::/job\n", {"job/cpu.max": "max 100000", "cpu.max": "max 100000"}, 64),
    "of the job": ("0::/batch/job\n", {"batch/job/cpu.max": "400000 100000"}, 4),
    "of what it lies in": (
        "0::/batch/job\n",
        {"batch/cpu.max": "300000 100000", "batch/job/cpu.max": "max 1"},
        3,
    ),
    "a container's own view": ("0::/\n", {"cpu.max": "150000 100000"}, 2),
    "a part of a core": ("0::/job\n", {"job/cpu.max": "20000 100000"}, 1),
    "more than there are": ("0::/job\n", {"job/cpu.max": "9900000 100000"}, 64),
    "of another folder": ("0::/job\n", {"other/cpu.max": "100000 100000"}, 64),
    "version 1": (
        VERSION_1,
        {
            "cpu,cpuacct/batch/cpu.cfs_quota_us": "500000",
            "cpu,cpuacct/batch/cpu.cfs_period_us": "100000",
            "cpu,cpuacct/batch/job/cpu.cfs_quota_us": "-1",
            "cpu,cpuacct/batch/job/cpu.cfs_period_us": "100000",
        },
        5,
    ),
    "damaged": ("0::/job\n", {"job/cpu.max": "what"}, 64),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_cores_are_those_that_are_granted(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    member, files, expected = QUOTAS[case]
    (tmp_path / "self").write_text(member)
    for name, text in files.items():
        (tmp_path / "cgroup" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "cgroup" / name).write_text(text + "\n")
    monkeypatch.setattr(devices, "_MEMBER", tmp_path / "self")
    monkeypatch.setattr(devices, "CGROUP", tmp_path / "cgroup")
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)
    assert devices.cores() == expected


def test_cores_are_those_that_the_process_is_bound_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "_MEMBER", tmp_path / "none")
    monkeypatch.setattr(os, "cpu_count", lambda: 192)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7}, raising=False)
    assert devices.cores() == 1
    monkeypatch.delattr(os, "sched_getaffinity")
    assert devices.cores() == 192


def test_numbers_come_from_the_device_in_their_own_types() -> None:
    given = {
        "single": torch.tensor([0.1, -2.5]),
        "double": torch.tensor([0.1], dtype=torch.float64),
        "whole": torch.tensor([[3, -4]]),
        "flag": torch.tensor([True, False]),
        "number": torch.tensor(7.25),
    }
    found = fetch(given)
    for name, tensor in given.items():
        assert found[name].dtype == tensor.numpy().dtype
        assert np.array_equal(found[name], tensor.numpy().reshape(-1))
