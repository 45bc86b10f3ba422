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
"""Side of the matrices whose product says what this machine's processor does."""


@dataclass(frozen=True)
class Device:
    """A device: peak dense tera-operations a second in half precision and in float32, and its memory.

    `also` are further names that torch has for it, without spaces.
    """

    name: str
    half_tflops: float
    single_tflops: float
    memory_gb: float | None
    source: str
    also: list[str] = field(default_factory=list)

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


def device(name: str | None) -> Device:
    """A device of the table, `cpu` for this machine's processor, by default what torch finds here.

    Raises `TgoError` for another name.
    """
    if name is None:
        return _here()
    if name.lower() == "cpu":
        return _processor()
    known = devices()
    found = {each.lower(): each for each in known}.get(name.lower())
    if found is None:
        close = difflib.get_close_matches(name.upper(), known, n=2)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise TgoError(f"no GPU is known as {name!r}.{hint} Known: {', '.join(known)}, cpu.")
    return known[found]


def _here() -> Device:
    import torch

    if not torch.cuda.is_available():
        return _processor()
    title, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory / 1e9
    plain, table = title.replace(" ", ""), devices().values()
    known = next((each for each in table if any(sign in plain for sign in each.also)), None)
    known = known or next((each for each in table if each.name in plain), None)
    if known is None:
        raise TgoError(
            f"this machine's {title} is not in the table: name a GPU, one of {', '.join(devices())}."
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
