"""Sections of RESULTS.md: each benchmark replaces its own, between two markers."""

from __future__ import annotations

import contextlib
import datetime
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tgo_pipeline.devices import cores

if TYPE_CHECKING:
    import polars as pl

RESULTS = Path(__file__).parent / "RESULTS.md"
FEATURES = ("avx2", "avx512f", "avx512_bf16", "avx512_fp16", "amx_bf16", "amx_int8")
LIBRARIES = ("torch", "torchvision", "transformers", "diffusers", "peft", "open_clip_torch", "Pillow")


SEEDS_RESAMPLED = (
    "Of several seeds, intervals resample the trainings as well as the prompts (docs/EVALUATION.md); of one, the "
    "prompts alone."
)
"""What a section says of its intervals."""


def of_training(samples: pl.DataFrame, seed: int) -> pl.DataFrame:
    """The samples table of one seed, fit to stand with those of others: its ids and a column say which it is."""
    import polars as pl

    return samples.with_columns(
        sample_id=pl.format("{}/{}", pl.lit(seed), "sample_id"), training=pl.lit(str(seed))
    )


def rounded(content: Any) -> Any:
    """Nested numbers to five digits."""
    if isinstance(content, dict):
        return {key: rounded(value) for key, value in content.items()}
    if isinstance(content, list):
        return [rounded(value) for value in content]
    return float(f"{content:.5g}") if isinstance(content, float) else content


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "processor": f"{_processor()}, {cores()} cores",
        "accelerator": torch.cuda.get_device_name() if cuda else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
    }


def hardware() -> dict[str, Any]:
    """What speeds depend on: processor with what it can do, memory in bytes, accelerator, libraries, day, commit."""
    flags = set(_first_value("/proc/cpuinfo", "flags").split())
    versions = {}
    for name in LIBRARIES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return {
        "date": datetime.date.today().isoformat(),
        **machine(),
        "features": [feature for feature in FEATURES if feature in flags],
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "versions": versions,
    }


def described(hardware: Mapping[str, Any]) -> str:
    """`hardware` as a sentence of a section."""
    versions = ", ".join(f"{name} {version}" for name, version in hardware["versions"].items())
    return (
        f"{hardware['date']}, {hardware['processor']} ({', '.join(hardware['features'])}), "
        f"{hardware['memory_bytes'] / 2**30:.0f} GiB of memory, accelerator {hardware['accelerator']}; "
        f"Python {hardware['python']}, {versions}; commit {hardware['commit']}."
    )


def record(path: Path, device: str, measured: Mapping[str, Any]) -> dict[str, Any]:
    """Keep the numbers of one kind of device (cpu, cuda) in a JSON file beside those of others; all of them."""
    devices = json.loads(path.read_text()) if path.is_file() else {}
    devices[device.split(":")[0]] = measured
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(devices, indent=1) + "\n")
    return devices


def _processor() -> str:
    return _first_value("/proc/cpuinfo", "model name") or platform.machine()


def _first_value(path: str, key: str) -> str:
    """The value of the first line that begins with `key`, empty if there is none."""
    lines = Path(path).read_text().splitlines() if Path(path).is_file() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith(key)), "")


def _commit() -> str:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table, its first column to the left and the others to the right."""
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def replace_section(path: Path, name: str, text: str) -> None:
    """Put `text` between the markers of section `name`; a file or section that is not there yet is begun."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    section = f"{begin}\n{text.strip()}\n{end}"
    content = path.read_text() if path.is_file() else "# Results\n"
    if begin in content and end in content:
        before, rest = content.split(begin, 1)
        content = before + section + rest.split(end, 1)[1]
    else:
        content = f"{content.rstrip()}\n\n{section}\n"
    path.write_text(content)
