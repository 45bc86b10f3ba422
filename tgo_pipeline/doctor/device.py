"""Whether torch can use the device that is asked for, and as it is asked to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tgo_pipeline.devices import cores
from tgo_pipeline.doctor.findings import Finding, fail, note, ok, warn
from tgo_pipeline.doctor.request import Request
from tgo_pipeline.params import RuntimeParams

if TYPE_CHECKING:
    from tgo_pipeline.doctor.examine import Check

DRIVER = Path("/proc/driver/nvidia/version")
"""Where Linux says which NVIDIA driver is loaded."""
SUBJECT = "runtime.device"
BF16_MAJOR = 8
"""Compute capability from which on NVIDIA's GPUs have bf16."""
_BUILT = re.compile(r"(?P<kind>sm|compute)_(?P<major>\d+)(?P<minor>\d)[a-z]?")


@dataclass(frozen=True)
class Gpu:
    """A CUDA device: its compute capability (9, 0 is sm_90), and memory in bytes."""

    index: int
    name: str
    capability: tuple[int, int]
    free_bytes: int
    total_bytes: int
    has_bf16: bool


def checks(case: Request) -> Iterator[Check]:
    """The device, each GPU, precision and processes."""
    runtime = case.runtime
    yield SUBJECT, lambda: _device(runtime)
    yield "gpu", lambda: _gpus(runtime)
    if params := case.params:
        yield "fine_tune.precision", lambda: _precision(runtime, params.fine_tune.precision)
    yield "runtime.processes", lambda: _processes(runtime)


def _device(runtime: RuntimeParams) -> Iterator[Finding]:
    import torch

    from tgo_pipeline.devices import resolve_device

    reason = cuda_problem()
    if reason is not None and runtime.device.startswith("cuda"):
        yield fail(SUBJECT, f"{runtime.device} is asked for, but {reason}")
        return
    device = resolve_device(runtime.device)
    build = f"torch {torch.__version__}"
    yield ok(SUBJECT, f"{runtime.device} is {device} here ({build}).")
    if reason is not None and runtime.device == "auto" and device.type == "cpu":
        level = warn if DRIVER.exists() else note
        yield level(SUBJECT, f"no GPU is used: {reason}")


def cuda_problem() -> str | None:
    """Why torch cannot use CUDA, and what to do; None if it can."""
    import torch

    if torch.cuda.is_available():
        return None
    if torch.version.hip is not None:
        return f"torch, built for ROCm {torch.version.hip}, finds no GPU: see rocminfo, or set runtime.device: cpu."
    if torch.version.cuda is None:
        return (
            f"torch {torch.__version__} is built without CUDA: install the build of torch for your GPU "
            "(pip install torch torchvision), or set runtime.device: cpu."
        )
    driver = _driver()
    if driver is None:
        return (
            f"there is no NVIDIA driver (torch is built for CUDA {torch.version.cuda}): start the machine or container "
            "with its GPU (docker run --gpus all), install the driver, or set runtime.device: cpu."
        )
    return (
        f"torch, built for CUDA {torch.version.cuda}, cannot use driver {driver} ({_why()}): update the driver, or "
        "install a torch that is built for an older CUDA."
    )


def _driver() -> str | None:
    """The version of the NVIDIA driver; None without one."""
    if not DRIVER.is_file():
        return None
    words = DRIVER.read_text(errors="replace").split()
    return next((word for word in words if word.replace(".", "").isdigit() and "." in word), "unknown")


def _why() -> str:
    import torch

    try:
        torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        return str(error).split(". ")[0].strip()
    return "no GPU is visible; see CUDA_VISIBLE_DEVICES"


def gpus() -> list[Gpu]:
    """The CUDA devices that torch can use."""
    import torch

    found = []
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        properties = torch.cuda.get_device_properties(index)
        free, total = torch.cuda.mem_get_info(index)
        major, minor = properties.major, properties.minor
        has_bf16 = torch.version.hip is not None or major >= BF16_MAJOR
        found.append(Gpu(index, properties.name, (major, minor), free, total, has_bf16))
    return found


def _gpus(runtime: RuntimeParams) -> Iterator[Finding]:
    import torch

    if runtime.device in ("cpu", "mps"):
        return
    built_for = torch.cuda.get_arch_list()
    for gpu in gpus():
        yield from about_gpu(gpu, built_for)


def about_gpu(gpu: Gpu, built_for: list[str]) -> Iterator[Finding]:
    """What it is, whether it is free, and whether torch is built for it (`torch.cuda.get_arch_list`)."""
    subject = f"gpu {gpu.index}"
    free = f"{gpu.free_bytes / 1e9:.1f} of {gpu.total_bytes / 1e9:.1f} GB free"
    sign = "sm_{}{}".format(*gpu.capability)
    yield ok(subject, f"{gpu.name} ({sign}), {free}.")
    if gpu.free_bytes < gpu.total_bytes / 2:
        yield warn(subject, f"only {free}: another process uses it (nvidia-smi lists them); end it, or wait.")
    known = [match for name in built_for if (match := _BUILT.fullmatch(name))]
    if known and not any(_runs(match, gpu.capability) for match in known):
        yield fail(
            subject,
            f"torch is built for {', '.join(built_for)}, and this is {sign}: install a torch that is built for it.",
        )


def _runs(built: re.Match[str], capability: tuple[int, int]) -> bool:
    """Whether code runs here: machine code within its major version, intermediate code on everything newer."""
    made_for = int(built["major"]), int(built["minor"])
    return made_for <= capability and (built["kind"] == "compute" or made_for[0] == capability[0])


def _precision(runtime: RuntimeParams, precision: str) -> Iterator[Finding]:
    from tgo_pipeline.devices import resolve_device
    from tgo_pipeline.errors import TgoError

    try:
        device = resolve_device(runtime.device)
    except TgoError:
        return  # said of the device itself
    yield from about_precision(precision, device.type, gpus() if device.type == "cuda" else [])


def about_precision(precision: str, device: str, found: list[Gpu]) -> Iterator[Finding]:
    """Whether a device trains in a precision."""
    subject = "fine_tune.precision"
    without = [gpu.name for gpu in found if not gpu.has_bf16]
    if precision == "bf16" and without:
        yield fail(subject, f"bf16 is not computed by {', '.join(without)}: set fp16, or fp32.")
    elif precision == "fp16" and device == "cpu":
        yield fail(subject, "fp16 needs a GPU: set bf16 or fp32 on a CPU.")
    elif precision == "bf16" and device == "cpu":
        yield note(subject, "bf16 on a CPU is slow where its instructions lack it: fp32 may be faster.")
    else:
        yield ok(subject, f"{precision} on {device}.")


def _processes(runtime: RuntimeParams) -> Iterator[Finding]:
    count = 0 if runtime.device in ("cpu", "mps") else len(gpus())
    yield from about_processes(runtime.processes, count, cores())


def about_processes(processes: int, count: int, cores: int) -> Iterator[Finding]:
    """Whether so many processes suit `count` GPUs, or `cores` cores without one."""
    subject = "runtime.processes"
    if count and processes > count:
        yield warn(subject, f"{processes} processes share {count} GPU(s): set it to {count}.")
    elif count > processes:
        yield note(
            subject, f"{count - processes} of {count} GPUs stay unused: set it to {count} to use all of them."
        )
    elif not count and processes > cores:
        yield warn(subject, f"{processes} processes share {cores} cores: set it to {cores} at most.")
    else:
        yield ok(subject, f"{processes} on {f'{count} GPU(s)' if count else f'{cores} core(s)'}.")
