"""Sections of RESULTS.md: each benchmark replaces its own, between two markers."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path


def machine() -> dict[str, str]:
    """What the numbers were measured on."""
    import torch

    cuda = torch.cuda.is_available()
    return {
        "processor": f"{_processor()}, {len(os.sched_getaffinity(0))} cores",
        "accelerator": torch.cuda.get_device_name() if cuda else "none",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
    }


def _processor() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


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
