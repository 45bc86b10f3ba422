"""`tgo score` as a process of its own: to kill it, and to see how much memory it takes."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.project import ROOT, environment

COMMAND = [sys.executable, "-m", "stages.cli", "score"]


def start(folder: Path, *arguments: str, **options: object) -> subprocess.Popen[str]:
    """Start `tgo score` in a folder; what it logs is in `.log` there."""
    with (folder / ".log").open("w") as log:
        return subprocess.Popen(
            [*COMMAND, *arguments],
            cwd=folder,
            env={**environment(), "PYTHONPATH": str(ROOT)},
            stdout=subprocess.DEVNULL,
            stderr=log,
            text=True,
            **options,  # type: ignore[call-overload]
        )


def peak_bytes(folder: Path, *arguments: str) -> int:
    """Run a call that must succeed and return the most memory that its process held.

    From /proc: what `getrusage` gives contains the parent's memory before the child replaced it.
    """
    script = (
        "from pathlib import Path; from stages.cli import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "print(Path('/proc/self/status').read_text())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, "score", *arguments],
        cwd=folder,
        env={**environment(), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    (kilobytes,) = re.findall(r"VmHWM:\s+(\d+) kB", done.stdout)
    return 1024 * int(kilobytes)
