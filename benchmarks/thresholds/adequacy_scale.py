"""How long the adequacy report takes for ten million scores, and how much memory.

python -m benchmarks.thresholds.adequacy_scale                    # 10 million scores of 2.5 million prompts
python -m benchmarks.thresholds.adequacy_scale --samples 100000   # the same on fewer, in seconds

Shards of scores are written first, by a process of their own. Another one, started afresh, reads them and computes the
report; its time and its peak resident memory (all of the process, libraries included) are what is recorded, beside the
load of the machine.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.results import hardware

RESULT = Path(__file__).parents[1] / "adequacy_scale.json"
REWARD = "pickscore"
SHARD = 500_000


def write_scores(folder: Path, samples: int, per_prompt: int) -> None:
    """Score shards of normal scores: half of their variance lies between prompts; ids as the pipeline makes them."""
    import pyarrow as pa

    from tgo_pipeline.storage.tables import scores_schema, write_table

    rng = np.random.default_rng(0)
    schema = scores_schema([REWARD])
    count = -(-samples // SHARD)
    for index in range(count):
        number = np.arange(index * SHARD, min(samples, (index + 1) * SHARD))
        prompt, first = number // per_prompt, number[0] // per_prompt
        names = pa.array([f"{value:016x}" for value in prompt.tolist()])
        sample_ids = pa.array([f"{p:016x}-{k:04d}" for p, k in zip(prompt, number % per_prompt, strict=True)])
        shift = rng.normal(size=prompt[-1] - first + 1)[prompt - first]
        scores = pa.array(shift + rng.normal(size=number.size), pa.float32())
        table = pa.table([sample_ids, names, scores, pa.nulls(number.size, pa.string())], schema=schema)
        write_table(table, folder / f"train-{index:05d}-of-{count:05d}.parquet", {"fingerprint": str(index)})


def measure(folder: Path) -> dict[str, Any]:
    """Read the shards and compute the report; seconds of each, and the peak of memory after each, in bytes."""
    import polars as pl

    from tgo_pipeline.params import Params, parse
    from tgo_pipeline.thresholds.adequacy.report import adequacy
    from tgo_pipeline.thresholds.adequacy.table import by_reward
    from tgo_pipeline.thresholds.targets import read_scores

    raw = {"prompts": {"test": {"plain": "demo:plain"}}, "score": {"rewards": {REWARD: "demo"}}}
    params = parse(Params, raw | {"target": {"reward": REWARD}, "threshold": {"beta": 1.0}})
    found: dict[str, Any] = {"libraries_peak_bytes": peak()}
    clock = Clock()
    frame = read_scores(folder, [REWARD])
    found |= clock.read("read") | {"read_peak_bytes": peak()}
    tau = float(frame[REWARD].quantile(0.5, interpolation="linear"))  # type: ignore[arg-type]
    row = {
        "reward": REWARD,
        "tau": tau,
        "percentile": 0.5,
        "tau_bootstrap_low": None,
        "tau_bootstrap_high": None,
    }
    clock = Clock()
    table = adequacy(frame, [row], params)
    found |= clock.read("report") | {"peak_bytes": peak()}
    statistics = by_reward(pl.DataFrame(table))[REWARD]
    return found | {"rows": table.num_rows, "verdict": statistics.first("verdict").note}


class Clock:
    """Wall and processor time since it was made; the second does not grow with what else the machine is doing."""

    def __init__(self) -> None:
        self.wall, self.cpu = time.perf_counter(), time.process_time()

    def read(self, name: str) -> dict[str, float]:
        """Both in seconds."""
        wall, cpu = time.perf_counter() - self.wall, time.process_time() - self.cpu
        return {f"{name}_s": round(wall, 2), f"{name}_cpu_s": round(cpu, 2)}


def peak() -> int:
    """Highest resident memory of this process so far."""
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else 1024 * most


def main() -> None:
    """Write the shards, measure, and record."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--samples", type=int, default=10_000_000)
    parser.add_argument("--per-prompt", type=int, default=4)
    parser.add_argument("--folder", type=Path, help="measure these shards in this process, and print it")
    arguments = parser.parse_args()
    if arguments.folder:
        sys.stdout.write(json.dumps(measure(arguments.folder)))
        return
    with tempfile.TemporaryDirectory() as temporary:
        write_scores(Path(temporary), arguments.samples, arguments.per_prompt)
        call = [sys.executable, "-m", "benchmarks.thresholds.adequacy_scale", "--folder", temporary]
        found = json.loads(subprocess.run(call, check=True, capture_output=True, text=True).stdout)
    setup = {"samples": arguments.samples, "samples_per_prompt": arguments.per_prompt} | {
        "hardware": hardware()
    }
    setup["load"] = os.getloadavg()[0]
    text = json.dumps(setup | found, indent=2) + "\n"
    sys.stdout.write(text)
    if arguments.samples == parser.get_default("samples"):
        RESULT.write_text(text)


if __name__ == "__main__":
    main()
