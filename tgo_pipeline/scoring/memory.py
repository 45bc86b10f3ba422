"""Which rewards fit into memory together; the others are loaded after them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from tgo_pipeline import signals
from tgo_pipeline.devices import resolve_device
from tgo_pipeline.hub import weight_files
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.rewards import require, resolve_precision
from tgo_pipeline.rewards.specs import Spec

if TYPE_CHECKING:
    import torch

SHARE = 0.7
"""Part of the free memory that weights may take; the rest is for images and activations."""
_MEMINFO = Path("/proc/meminfo")


def groups(columns: Mapping[str, Spec], dtype: str, runtime: RuntimeParams) -> list[list[str]]:
    """The columns in groups whose rewards are loaded together, in their order; one group if memory allows.

    Columns of one reward are in one group. The budget is `runtime.score_memory_gb`, or what is free on the device,
    divided by the processes that share it.
    """
    if runtime.processes > 1 and _may_be_a_gpu(runtime.device):
        # The processes open the GPUs; this one must not, since a GPU may take a single process (EXCLUSIVE_PROCESS).
        with ProcessPoolExecutor(1, mp_context=signals.context("spawn")) as pool:
            return pool.submit(_groups, columns, dtype, runtime).result()
    return _groups(columns, dtype, runtime)


def _may_be_a_gpu(device: str) -> bool:
    import torch

    return device not in ("cpu", "mps") and torch.cuda.is_available()


def _groups(columns: Mapping[str, Spec], dtype: str, runtime: RuntimeParams) -> list[list[str]]:
    device = resolve_device(runtime.device)
    budget_bytes = _budget_bytes(runtime, device)
    each_bytes = 2 if resolve_precision(dtype, device) == "fp16" else 4
    result: list[list[str]] = []
    placed: dict[Spec, list[str]] = {}
    left_bytes = 0.0
    for name, spec in columns.items():
        if spec not in placed:
            size_bytes = weight_files.count(require(spec)) * each_bytes
            if not result or size_bytes > left_bytes:
                result.append([])
                left_bytes = budget_bytes
            placed[spec] = result[-1]
            left_bytes -= size_bytes
        placed[spec].append(name)
    return result


def _budget_bytes(runtime: RuntimeParams, device: torch.device) -> float:
    if runtime.score_memory_gb is not None:
        return runtime.score_memory_gb * 1e9
    if device.type != "cuda":
        return SHARE * _available_bytes() / runtime.processes
    import torch

    shared = math.ceil(runtime.processes / max(1, torch.cuda.device_count()))
    return SHARE * torch.cuda.mem_get_info(device)[0] / shared


def _available_bytes() -> float:
    """Memory that programs can have without swapping, where the system tells; else no bound."""
    if not _MEMINFO.is_file():
        return math.inf
    lines = (line.split() for line in _MEMINFO.read_text().splitlines())
    return next((1024.0 * int(words[1]) for words in lines if words[0] == "MemAvailable:"), math.inf)
