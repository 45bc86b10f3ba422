"""How long each stage of the embedded demo takes on this machine, run one after another in an empty folder.

python -m benchmarks.demo.demo_time        # replaces its section of benchmarks/RESULTS.md
"""

import datetime
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.results import machine, replace_section, table
from stages import STAGES

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "benchmarks/RESULTS.md"


def main() -> None:
    """Time every stage as a process of its own, imports included, and write the table."""
    with tempfile.TemporaryDirectory() as folder:
        seconds = {stage: _seconds(stage, Path(folder)) for stage in STAGES}
    rows = [["seconds", *(f"{value:.0f}" for value in seconds.values()), f"{sum(seconds.values()):.0f}"]]
    where = ", ".join(f"{key} {value}" for key, value in machine().items())
    text = (
        "## Time of the demo\n\n"
        f"{datetime.date.today().isoformat()}, {where}. One run, shipped parameters, after installation; each stage "
        f"is a process of its own, imports included.\n\n{table(['stage', *seconds, 'all'], rows)}"
    )
    replace_section(RESULTS, "demo_time", text)


def _seconds(stage: str, folder: Path) -> float:
    shutil.copy2(ROOT / "params.yaml", folder)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", f"stages.{stage}"], cwd=folder, env=environment, check=True)
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
