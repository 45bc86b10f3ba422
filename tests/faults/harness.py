"""A harness in a process of its own: those that fork can only do so where no library has begun a thread."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from tests.project import ROOT, environment

LIMIT_S = 900


def harness(name: str, *options: object, broken: str = "") -> tuple[int, dict[str, Any]]:
    """Run a harness, of a product that is `broken` first: its exit code, and the last line that it prints."""
    code = f"{broken}\nfrom tests.faults import {name}\nraise SystemExit({name}.main())"
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, options)],
        cwd=ROOT,
        env=environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        check=False,
    )
    lines = done.stdout.strip().splitlines() or ["{}"]
    print(done.stdout[-4000:], done.stderr[-4000:])
    return done.returncode, json.loads(lines[-1])
