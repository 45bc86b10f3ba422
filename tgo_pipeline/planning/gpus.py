"""What devices can do at most, from their makers' data sheets, and the share of it that runs like these reach."""

from __future__ import annotations

import difflib
import functools
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params.checks import Precision, fraction, positive
from tgo_pipeline.params.parsing import read_data

FILE = Path(__file__).with_name("gpus.yaml")
MATRIX = 1024
"""Side of the matrices whose product says what this machine's processor does; it takes milliseconds."""


@dataclass(frozen=True)
class Device:
    """A device: peak dense tera-operations a second in half precision and in float32, and its memory.

    `calls` are the names that torch has for it.
    """

    name: str
    half_tflops: float
    single_tflops: float
    memory_gb: float | None
    source: str
    calls: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        positive(half_tflops=self.half_tflops, single_tflops=self.single_tflops, memory_gb=self.memory_gb)

    def hours(self, flops: float, precision: Precision) -> float:
        """How long one device takes for so many operations, at the assumed utilisation."""
        half = precision != "fp32"
        peak = self.half_tflops if half else self.single_tflops
        share = utilisation()["half" if half else "single"]
        return flops / (peak * 1e12 * share) / 3600


@dataclass(frozen=True)
class _Utilisation:
    half: float
    single: float

    def __post_init__(self) -> None:
        fraction(half=self.half, single=self.single)


@dataclass(frozen=True)
class _File:
    utilisation: _Utilisation
    devices: list[Device]


@functools.cache
def _file() -> _File:
    return read_data(FILE, _File)


def utilisation() -> Mapping[str, float]:
    """Assumed share of the peak that is reached, in `half` precision and in `single`."""
    return asdict(_file().utilisation)


def devices() -> Mapping[str, Device]:
    """The table of devices by name."""
    return {each.name: each for each in _file().devices}


def device(name: str | None, tflops: float | None = None, memory_gb: float | None = None) -> Device:
    """A device of the table, `cpu` for this machine's processor, by default what torch finds here.

    With `tflops`, a peak in half precision, it is any other one of that name with so much memory. Raises `TgoError` for
    a name that neither the table nor these describe.
    """
    if tflops is not None:
        return _described(name, tflops, memory_gb)
    if memory_gb is not None:
        raise TgoError("--gpu-memory is given without --gpu-tflops: a GPU is described by both.")
    if name is None:
        return _here()
    if name.lower() == "cpu":
        return _processor()
    known = devices()
    found = {each.lower(): each for each in known}.get(name.lower())
    if found is None:
        close = difflib.get_close_matches(name.upper(), known, n=2)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise TgoError(
            f"no GPU is known as {name!r}.{hint} Known: {', '.join(known)}, cpu. Describe another one with "
            "--gpu-tflops (dense, half precision, as its data sheet says) and --gpu-memory (GB)."
        )
    return known[found]


def _described(name: str | None, tflops: float, memory_gb: float | None) -> Device:
    """A device by what its data sheet says; float32 at the rate of most GPUs with matrix units, a quarter."""
    if memory_gb is None:
        raise TgoError("--gpu-tflops is given without --gpu-memory: a GPU is described by both.")
    return Device(name or "GPU", tflops, tflops / 4, memory_gb, "as it was described")


def called(title: str) -> Device | None:
    """The device that torch calls so, None if the table lacks it."""
    return next((each for each in devices().values() if title in each.calls), None)


def _here() -> Device:
    import torch

    if not torch.cuda.is_available():
        return _processor()
    title, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory / 1e9
    known = called(title)
    if known is None:
        raise TgoError(
            f"this machine's GPU, {title}, is not in the table: describe it with --gpu-tflops N (dense, half "
            f"precision, as its data sheet says) and --gpu-memory {memory:.0f}, or name one that is like it (--gpu: "
            f"{', '.join(devices())})."
        )
    return replace(known, memory_gb=memory)


def _processor() -> Device:
    """This machine's processor, by the time of a matrix product: float32 whatever the precision."""
    import torch

    left = torch.ones(MATRIX, MATRIX)
    torch.mm(left, left)
    started_s = time.perf_counter()
    for _ in range(3):
        torch.mm(left, left)
    seconds = (time.perf_counter() - started_s) / 3
    peak = 2 * MATRIX**3 / seconds / 1e12
    return Device("cpu", peak, peak, _memory_gb(), f"measured here: a product of {MATRIX}x{MATRIX} matrices")


def _memory_gb() -> float | None:
    import os

    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    except (ValueError, OSError, AttributeError):
        return None
