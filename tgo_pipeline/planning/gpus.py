"""What devices can do at most, from their makers' data sheets, and the share of it that runs like these reach."""

from __future__ import annotations

import difflib
import time
from dataclasses import dataclass

from tgo_pipeline.errors import TgoError
from tgo_pipeline.params.checks import Precision


@dataclass(frozen=True)
class Device:
    """A device: peak dense tera-operations a second in half precision and in float32, and its memory."""

    name: str
    half_tflops: float
    single_tflops: float
    memory_gb: float | None
    source: str

    def hours(self, flops: float, precision: Precision) -> float:
        """How long one device takes for so many operations, at the assumed utilisation."""
        half = precision != "fp32"
        peak = self.half_tflops if half else self.single_tflops
        share = UTILISATION["half" if half else "single"]
        return flops / (peak * 1e12 * share) / 3600


UTILISATION = {"half": 0.35, "single": 0.6}
"""Assumed share of the peak: half precision waits for memory more often than float32 does."""
DEVICES = {
    device.name: device
    for device in (
        Device("B200", 2250, 75, 180, "NVIDIA DGX B200 data sheet, per GPU"),
        Device("H200", 989, 67, 141, "NVIDIA H200 data sheet, SXM, without sparsity"),
        Device("H100", 989, 67, 80, "NVIDIA H100 data sheet, SXM, without sparsity"),
        Device("A100-80", 312, 19.5, 80, "NVIDIA A100 data sheet, without sparsity"),
        Device("A100-40", 312, 19.5, 40, "NVIDIA A100 data sheet, without sparsity"),
        Device("L40S", 362, 91.6, 48, "NVIDIA L40S data sheet, without sparsity"),
        Device("L4", 121, 30.3, 24, "NVIDIA L4 data sheet, without sparsity"),
        Device("A10G", 70, 31.2, 24, "NVIDIA A10G data sheet, without sparsity"),
        Device("RTX4090", 165.2, 82.6, 24, "NVIDIA Ada whitepaper, float32 accumulation, without sparsity"),
        Device("RTX3090", 71, 35.6, 24, "NVIDIA GA102 whitepaper, float32 accumulation, without sparsity"),
        Device("V100", 125, 15.7, 32, "NVIDIA V100 data sheet, SXM2"),
        Device("T4", 65, 8.1, 16, "NVIDIA T4 data sheet"),
    )
}
_SIGNS = {"A100-SXM4-80GB": "A100-80", "A100-SXM4-40GB": "A100-40", "A100-PCIE-40GB": "A100-40"}
MATRIX = 1024
"""Side of the matrices whose product says what this machine's processor does."""


def device(name: str | None) -> Device:
    """A device of the table, `cpu` for this machine's processor, none given for what torch finds here.

    Raises `TgoError` for another name.
    """
    if name is None:
        return _here()
    if name.lower() == "cpu":
        return _processor()
    found = {each.lower(): each for each in DEVICES}.get(name.lower())
    if found is None:
        close = difflib.get_close_matches(name.upper(), DEVICES, n=2)
        hint = f" Did you mean {' or '.join(close)}?" if close else ""
        raise TgoError(f"no GPU is known as {name!r}.{hint} Known: {', '.join(DEVICES)}, cpu.")
    return DEVICES[found]


def _here() -> Device:
    import torch

    if not torch.cuda.is_available():
        return _processor()
    title, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory / 1e9
    plain = title.replace(" ", "")
    known = next((name for sign, name in _SIGNS.items() if sign in plain), None)
    known = known or next((name for name in DEVICES if name in plain), None)
    if known is None:
        raise TgoError(
            f"this machine's {title} is not in the table: name a GPU, one of {', '.join(DEVICES)}."
        )
    table = DEVICES[known]
    return Device(table.name, table.half_tflops, table.single_tflops, memory, table.source)


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
