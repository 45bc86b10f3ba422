"""What the threshold and label stages take as users run them, for millions of samples: seconds, processor, memory.

python -m benchmarks.thresholds.scale                                        # 1 and 10 million samples
python -m benchmarks.thresholds.scale --rows 1e8 --beside ../earlier=1e7     # an earlier tree up to so many samples

Each project has 10 samples a prompt, five rewards, one of them with missing scores, and the combined target. Its shards
are written first, then each stage runs in a process of its own; the digest of every file is checked within the times.
Peak memory is the process's largest resident set, pages of mapped files included.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import typer

from benchmarks.results import RESULTS, described, hardware, replace_section, table
from tgo_pipeline.storage.tables import scores_schema, write_table
from tgo_pipeline.storage.writing import atomic

RESULT = Path(__file__).parents[1] / "threshold_scale.json"
ROOT = Path(__file__).parents[2]
REWARDS = ("hpsv2.1", "pickscore", "imagereward", "clip", "aesthetic")
SHARD_ROWS, PER_PROMPT = 500_000, 10
BETWEEN, MISSING = 0.4, 0.001
"""Standard deviation between prompts, of 1 within them; share of the scores of one reward that are missing."""
STAGES = ("threshold", "label")
COST = ("seconds", "processor seconds", "peak memory")


def write_project(folder: Path, rows: int) -> None:
    """Parameters and score shards; ids are as the pipeline makes them, in no order."""
    scores = folder / "data" / "scores"
    count = -(-rows // SHARD_ROWS)
    for index in range(count):
        number = np.arange(index * SHARD_ROWS, min(rows, (index + 1) * SHARD_ROWS), dtype=np.uint64)
        samples, ids, owner = names(number)
        prompts = owner[-1] + 1
        draw = np.random.default_rng(index)
        columns = []
        for reward in REWARDS:
            values = BETWEEN * draw.normal(size=prompts)[owner] + draw.normal(size=number.size)
            lacks = draw.random(number.size) < MISSING if reward == "clip" else None
            columns.append(pa.array(values.astype(np.float32), mask=lacks))
        texts = [pa.array(samples), pa.array(ids)]
        shard = pa.table(
            [*texts, *columns, pa.nulls(number.size, pa.string())], schema=scores_schema(REWARDS)
        )
        with atomic(scores / f"train-{index:05d}-of-{count:05d}.parquet") as temporary:
            write_table(shard, temporary, {"fingerprint": f"{rows} {index}"})
    rewards = "".join(f"    {name}: demo\n" for name in REWARDS)
    (folder / "params.yaml").write_text(
        f"prompts:\n  test: {{plain: 'demo:plain'}}\nscore:\n  rewards:\n{rewards}target: {{reward: mean_z}}\n"
    )


def names(number: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Ids of samples and of their prompts, as the pipeline makes them, and a prompt's number among these."""
    prompts, owner = np.unique(number // PER_PROMPT, return_inverse=True)
    hashed = prompts * np.uint64(0x9E3779B97F4A7C15)  # odd, so that no two prompts have one
    ids = np.array([f"{value:016x}" for value in hashed.tolist()])[owner]
    places = np.array([f"-{place:04d}" for place in range(PER_PROMPT)])[number % PER_PROMPT]
    return np.char.add(ids, places), ids, owner


def measure(project: Path, stage: str, tree: Path) -> dict[str, float]:
    """One stage of a project by the code of a tree: seconds on the clock and of processors, peak memory in bytes."""
    return measure_call([sys.executable, "-m", f"stages.{stage}"], project, stage, tree)


def measure_call(call: list[str], project: Path, name: str, tree: Path) -> dict[str, float]:
    """The same of any command; what it says is in `name`.log of the project."""
    started = time.perf_counter()
    with (project / f"{name}.log").open("w") as log:
        process = subprocess.Popen(
            call, cwd=project, env={**os.environ, "PYTHONPATH": str(tree)}, stdout=log, stderr=log
        )
        _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit((project / f"{name}.log").read_text()[-2000:])
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "processor_s": round(used.ru_utime + used.ru_stime, 1),
        "peak_bytes": _bytes(used),
    }


def _bytes(used: resource.struct_rusage) -> int:
    return used.ru_maxrss if sys.platform == "darwin" else 1024 * used.ru_maxrss


def main(rows: list[float] = [1e6, 1e7], beside: str = "", room: Path | None = None) -> None:  # noqa: B006
    """Write each project, run both stages, and record. `room` is where the projects lie while they are measured."""
    tree, _, most = beside.partition("=")
    codes = {"this": (ROOT, np.inf)} | (
        {"earlier": (Path(tree).absolute(), float(most or "inf"))} if tree else {}
    )
    found: list[dict[str, Any]] = []
    for count in map(int, rows):
        with tempfile.TemporaryDirectory(dir=room) as folder:
            project = Path(folder)
            write_project(project, count)
            for code, (path, limit) in codes.items():
                for stage in STAGES if count <= limit else ():
                    taken = measure(project, stage, path)
                    found.append(
                        {"samples": count, "code": code, "stage": stage, "load": os.getloadavg()[0], **taken}
                    )
                    typer.echo(json.dumps(found[-1]))
                for made in ("labels", "thresholds.parquet", "baselines.parquet", "adequacy.parquet"):
                    _remove(project / "data" / made)
    RESULT.write_text(json.dumps({"hardware": hardware(), "measured": found}, indent=1) + "\n")
    replace_section(RESULTS, "threshold scale", section(found))


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def cost_cells(taken: dict[str, Any]) -> list[str]:
    """What `measure_call` found, as the cells of a row below `COST`."""
    return [f"{taken['seconds']:.1f}", f"{taken['processor_s']:.1f}", f"{taken['peak_bytes'] / 1e9:.2f} GB"]


def section(found: list[dict[str, Any]]) -> str:
    """What RESULTS.md says."""
    header = ["samples", "code", "stage", *COST]
    cells = [
        [
            f"{each['samples']:,}",
            each["code"],
            each["stage"],
            *cost_cells(each),
        ]
        for each in found
    ]
    loads = [each["load"] for each in found]
    return (
        "## Millions of scores\n\nWhole stages, each a process of its own: five rewards and a combined target, 10 "
        "samples a prompt; the digests of all files are checked within (`python -m benchmarks.thresholds.scale`, "
        f"`threshold_scale.json`). {described(hardware())} Load of the machine: {min(loads):.1f} to {max(loads):.1f}."
        "\n\n"
        f"{table(header, cells)}"
    )


if __name__ == "__main__":
    typer.run(main)
