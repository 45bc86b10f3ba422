"""Free memory and disk, compared with what the run takes: at least by its weight files, or by a plan."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tgo_pipeline.doctor import weights
from tgo_pipeline.doctor.findings import Finding, fail, note, ok, warn
from tgo_pipeline.doctor.request import Needs, Request
from tgo_pipeline.errors import TgoError
from tgo_pipeline.params import FineTuneParams, Params, RuntimeParams

if TYPE_CHECKING:
    from tgo_pipeline.doctor.examine import Check

FLOAT_BYTES = 4
"""Weights are sampled from and trained in float32."""
CLOSE = 0.9
"""Beyond this share of what is free it may not fit: estimates are that good, and other programs take some meanwhile."""
SHARED = Path("/dev/shm")
SEMAPHORES_BYTES, NCCL_BYTES = 1 << 20, 1 << 30
"""What the locks of several processes need of it, and what training on several GPUs is comfortable with."""
CONTAINER = {Path("/sys/fs/cgroup/memory.max"): Path("/sys/fs/cgroup/memory.current")}
"""Where Linux says how much a container may have, and has."""


@dataclass(frozen=True)
class Need:
    """Bytes that something takes, and in words what and how surely (`at least`, `at most`)."""

    size_bytes: int
    what: str


def checks(case: Request) -> Iterator[Check]:
    """Memory of the machine and of its GPUs, disk of the working folder, and what processes share."""
    memory: list[Need] = []
    disk: list[Need] = []
    if params := case.params:
        yield "needs", lambda: _needs(params, case, memory, disk)
    yield "memory", lambda: _memory(case.runtime, memory)
    yield "disk", lambda: _disk(disk)
    if sys.platform == "linux":
        yield str(SHARED), lambda: _shared(case.runtime)


def _needs(params: Params, case: Request, memory: list[Need], disk: list[Need]) -> Iterator[Finding]:
    """Work out both needs, for the checks that follow."""
    if case.plan is not None:
        try:
            needs = case.plan(params)
        except TgoError as error:
            yield warn("needs", f"cannot be computed: {error}")
            return
        memory.append(_largest(needs))
        disk.append(Need(needs.disk_bytes, "the run writes at most"))
        return
    try:
        parts = networks(params)
    except TgoError:
        return  # said of the model's files
    if parts is None:
        yield note(
            "needs", "the model is not on this machine: `tgo doctor --plan` computes from its configuration."
        )
        return
    memory.append(training_memory(parts, params.fine_tune))
    disk.append(training_disk(parts, params.fine_tune))


def _largest(needs: Needs) -> Need:
    stage = max(needs.memory_bytes, key=lambda name: needs.memory_bytes[name])
    return Need(needs.memory_bytes[stage], f"{stage} takes on one device")


def networks(params: Params) -> dict[str, int] | None:
    """How many numbers each network of the model has; None if it is on the hub alone. Raises `TgoError` if broken."""
    from tgo_pipeline.doctor.hub.cached import pipeline_folder
    from tgo_pipeline.generators.location import described_guidance, locate

    described = described_guidance(params.model)
    location = locate(*described[:2]) if described else locate(params.model, params.revision)
    folder = location.folder or pipeline_folder(location.hub_id or "", location.revision)
    if folder is None:
        return None
    return {name: weights.numbers(folder / name) for name in weights.networks(folder)}


def training_memory(parts: dict[str, int], tuning: FineTuneParams) -> Need:
    """What each process of a training holds at least: trained numbers with gradients and moments.

    Sampling holds all networks at once; the larger of both counts.
    """
    sampling = FLOAT_BYTES * sum(parts.values())
    trained = _trained(parts) if tuning.method == "full" else 0
    copies = 2 + (2 if tuning.optimizer == "adamw" else 0) + (tuning.ema is not None)
    training = FLOAT_BYTES * trained * copies
    if training > sampling:
        return Need(training, "weights, gradients and optimiser in training take at least")
    return Need(sampling, "the model's weights take at least")


def training_disk(parts: dict[str, int], tuning: FineTuneParams) -> Need:
    """What training writes at least: two checkpoints for a moment, and the whole model as its result."""
    if tuning.method != "full":
        return Need(0, "the run writes images and adapters")
    moments = 2 if tuning.optimizer == "adamw" else 0
    checkpoint = _trained(parts) * (1 + moments + (tuning.ema is not None))
    return Need(
        FLOAT_BYTES * (2 * checkpoint + sum(parts.values())),
        "checkpoints and the tuned model (images come on top) take at least",
    )


def _trained(parts: dict[str, int]) -> int:
    return parts.get("unet") or parts.get("transformer") or 0


def _memory(runtime: RuntimeParams, needs: list[Need]) -> Iterator[Finding]:
    from tgo_pipeline.doctor.device import gpus

    found = [] if runtime.device in ("cpu", "mps") else gpus()
    free = available_bytes()
    if found:
        smallest = min(found, key=lambda gpu: gpu.free_bytes)
        yield from compare("GPU memory", smallest.free_bytes, needs, _LESS_MEMORY)
        needs = []
    if free is not None:
        yield from compare("memory", free, needs, _LESS_MEMORY)


_LESS_MEMORY = (
    "lower runtime.micro_batch_size and generate_batch_size, set runtime.gradient_checkpointing or fine_tune.method: "
    "lora, or take a larger machine"
)
_LESS_DISK = "make room, or work on another disk"


def _disk(needs: list[Need]) -> Iterator[Finding]:
    yield from compare("disk", shutil.disk_usage(Path.cwd()).free, needs, _LESS_DISK)


def compare(subject: str, free_bytes: int, needs: list[Need], advice: str) -> Iterator[Finding]:
    """Compare free bytes with what is needed: it does not fit, it may not, or it does."""
    free = f"{gigabytes(free_bytes)} free"
    if not needs:
        yield ok(subject, f"{free}.")
    for need in needs:
        text = f"{free}; {need.what} {gigabytes(need.size_bytes)}"
        if need.size_bytes > free_bytes:
            yield fail(subject, f"{text}: {advice}.")
        elif need.size_bytes > CLOSE * free_bytes:
            yield warn(subject, f"{text}, which is close: {advice}.")
        else:
            yield ok(subject, f"{text}." if need.size_bytes else f"{free}.")


def gigabytes(size_bytes: float) -> str:
    """A size with its unit, for people."""
    if size_bytes < 1e6:
        return f"{size_bytes / 1e3:.3g} kB"
    return f"{size_bytes / 1e9:.3g} GB" if size_bytes >= 1e9 else f"{size_bytes / 1e6:.3g} MB"


def available_bytes() -> int | None:
    """Memory that programs can have without swapping, within what the container may have; None if that is not known."""
    found = [each for each in (_machine_bytes(), _container_bytes()) if each is not None]
    return min(found, default=None)


def _machine_bytes() -> int | None:
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        lines = (line.split() for line in meminfo.read_text().splitlines())
        return next((1024 * int(words[1]) for words in lines if words[0] == "MemAvailable:"), None)
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None


def _container_bytes() -> int | None:
    for most, now in CONTAINER.items():
        try:
            return max(0, int(most.read_text()) - int(now.read_text()))
        except (OSError, ValueError):
            continue  # there is no limit ("max"), or no container
    return None


def _shared(runtime: RuntimeParams) -> Iterator[Finding]:
    from tgo_pipeline.doctor.device import gpus

    free = shutil.disk_usage(SHARED).free if SHARED.is_dir() else 0
    several = runtime.processes > 1 or bool(runtime.workers)
    yield from about_shared(free, several, 0 if runtime.device in ("cpu", "mps") else len(gpus()))


def about_shared(free_bytes: int, several: bool, count: int) -> Iterator[Finding]:
    """Shared memory for the locks of several processes, and for training on `count` GPUs; images go through pipes.

    A container has 64 MB of it unless it is told otherwise.
    """
    subject, free = str(SHARED), f"{gigabytes(free_bytes)} free"
    advice = "start the container with --shm-size=8g"
    if free_bytes < SEMAPHORES_BYTES and several:
        yield fail(
            subject, f"{free}, where the locks of several processes are: {advice}, or use one process."
        )
    elif free_bytes < NCCL_BYTES and count > 1:
        yield warn(subject, f"only {free}, through which {count} GPUs exchange gradients: {advice}.")
    else:
        yield ok(subject, f"{free}.")
