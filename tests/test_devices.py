"""What a process asks of the machine."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

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
