"""Everything that only a GPU can tell, in one go of about eight minutes.

python -m benchmarks.gpu --out FOLDER                 # on the GPU
python -m benchmarks.gpu --device cpu --out FOLDER    # a dry run on small networks
python -m benchmarks.gpu --only sampling training

It needs no weights: networks have their official sizes and random numbers. Each section is guarded, and
`results.json` is written as it ends, so that a limit of time loses the last one alone. Exit code 1 if one failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from benchmarks.gpu import machine, rewards, sampling, stages, training
from benchmarks.gpu.case import Case, Section
from tgo_pipeline.devices import resolve_device

SECTIONS: dict[str, Section] = {
    "machine": machine.machine,
    "devices": machine.devices,
    "stages": stages.stages,
    "reward numbers": rewards.numbers,
    "reward speed": rewards.speed,
    "memory runs out": rewards.memory,
    "sampling": sampling.sampling,
    "training": training.training,
    "frozen weights": training.frozen,
    "one process of several": training.one_process,
    "tests": machine.tests,
}
ENOUGH_S = 20
"""With less time left no section begins."""


def main() -> int:
    """Run the sections that are asked for; the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--out", type=Path, default=Path("gpu"))
    parser.add_argument(
        "--only", nargs="*", choices=list(SECTIONS), default=list(SECTIONS), metavar="SECTION"
    )
    parser.add_argument("--seconds", type=float, default=540)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    case = Case(resolve_device(options.device), options.seconds)
    results: dict[str, Any] = {}
    failed = 0
    for name in options.only:
        began_s = time.monotonic()
        try:
            found: dict[str, Any] = (
                SECTIONS[name](case) if case.left_s > ENOUGH_S else {"skipped": "no time left"}
            )
        except Exception as error:  # noqa: BLE001  # the other sections are worth their time
            traceback.print_exc()
            found = {"failed": f"{type(error).__name__}: {error}"}
            failed += 1
        results[name] = {**found, "took_s": round(time.monotonic() - began_s, 1)}
        (options.out / "results.json").write_text(json.dumps(results, indent=1, default=str) + "\n")
        print(name, json.dumps(results[name], default=str)[:3000], flush=True)
        case.forget()
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
