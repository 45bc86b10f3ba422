"""What fine_tune takes before its first step on millions of labels: seconds, processor, memory.

python -m benchmarks.training.scale                                          # 1 and 10 million labels
python -m benchmarks.training.scale --rows 1e6 --beside ../earlier=1e6       # an earlier tree up to so many labels

Each project has 10 samples a prompt in shards of 1,000, and everything that a training reads, encoded samples too, but
no image, and tensors of some bytes: those of a real model are read once for their digests, at the speed of the disk.
`benchmarks/training/start.py` does all that comes before the model is loaded, on one core, the digest of every file
that it reads included. Peak memory is the process's largest resident set, pages of mapped files included.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
import typer

from benchmarks.results import RESULTS, described, hardware, replace_section, table
from benchmarks.thresholds.scale import COST, PER_PROMPT, ROOT, cost_cells, measure_call, names
from fine_tune.data.cache import PROMPTS, prompt_chunks
from fine_tune.data.tensors import write_tensors
from fine_tune.job import plan
from tgo_pipeline.params import load_params
from tgo_pipeline.storage import digests
from tgo_pipeline.storage.tables import GENERATIONS, LABELS, write_table

RESULT = Path(__file__).parents[1] / "training_scale.json"
SHARD_ROWS = 1000
OBJECTIVES = ("tgo", "dpo")
"""Of single samples, and of pairs."""
PARAMS = """\
prompts: {test: {plain: 'demo:plain'}}
model: demo
score: {rewards: {clip: demo}}
target: {reward: clip}
"""


def write_project(folder: Path, rows: int) -> None:
    """Parameters, generations without images, labels, and encoded samples."""
    (folder / "params.yaml").write_text(PARAMS)
    count = -(-rows // SHARD_ROWS)
    for index in range(count):
        name = f"train-{index:05d}-of-{count:05d}.parquet"
        number = np.arange(index * SHARD_ROWS, min(rows, (index + 1) * SHARD_ROWS), dtype=np.uint64)
        samples, ids, _ = names(number)
        texts = [pa.array(samples), pa.array(ids)]
        for stage, columns, schema in (
            ("generations", _generations(number), GENERATIONS),
            ("labels", _labels(index, len(number)), LABELS),
        ):
            filled = [*texts, *columns]
            empty = [pa.nulls(len(number), field.type) for field in list(schema)[len(filled) :]]
            made = pa.table(filled + empty, schema=schema)
            path = _new(folder / "data" / stage / name)
            write_table(made, path, {"fingerprint": f"{rows} {index}"})
            _note(path)
    _write_cache(folder)


def _generations(number: np.ndarray) -> list[pa.Array]:
    prompts = [
        f"a synthetic prompt of some sixty characters, number {each:012d}" for each in number // PER_PROMPT
    ]
    return [pa.array(prompts)]


def _labels(index: int, rows: int) -> list[pa.Array]:
    score = np.random.default_rng(index).normal(size=rows)
    columns = (score, score, (score >= 0).astype(np.int64), 1 + np.abs(score))
    return [pa.array(["clip"] * rows), *map(pa.array, columns)]


def _write_cache(folder: Path) -> None:
    data = folder / "data"
    chunks = prompt_chunks(data / "generations")
    for shard in plan(load_params(folder / "params.yaml"), data / "generations"):
        if shard.split == PROMPTS:
            texts = {"prompts": json.dumps(chunks[shard.index])}
            tensors = {"embeddings": torch.zeros(len(chunks[shard.index]), 1, 4)}
        else:
            ids, prompts = _stored(data / "generations" / shard.name.replace(shard.suffix, ".parquet"))
            texts = {"sample_ids": json.dumps(ids), "prompts": json.dumps(prompts)}
            tensors = {"latents": torch.arange(4.0 * len(ids)).view(-1, 4, 1, 1)}
        path = _new(data / "encoded" / shard.name)
        write_tensors(tensors, path, shard.mark.entries() | texts)
        _note(path)


def _new(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _note(path: Path) -> None:
    """Write a file's digest; a million files that are not to last are not synced."""
    digests.sidecar(path).write_text(digests.line(path, digests.computed(path)))


def _stored(path: Path) -> Iterator[list[str]]:
    import pyarrow.parquet as pq

    read = pq.read_table(path, columns=["sample_id", "prompt"])
    return (read[name].to_pylist() for name in ("sample_id", "prompt"))


def main(rows: list[float] = [1e6, 1e7], beside: str = "", room: Path | None = None) -> None:  # noqa: B006
    """Write each project, start a training of each kind, and record. In a `room` the projects stay for another run."""
    tree, _, most = beside.partition("=")
    codes = {"this": (ROOT, np.inf)} | (
        {"earlier": (Path(tree).absolute(), float(most or "inf"))} if tree else {}
    )
    found: list[dict[str, Any]] = []
    os.environ |= {"OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}
    for count in map(int, rows):
        with tempfile.TemporaryDirectory() as name:
            project = (room or Path(name)) / str(count)
            if not project.is_dir():
                project.mkdir(parents=True)
                write_project(project, count)
            for code, (path, limit) in codes.items():
                for objective in OBJECTIVES if count <= limit else ():
                    found.append({"labels": count, "code": code, "objective": objective})
                    found[-1] |= _start(project, objective, path)
                    typer.echo(json.dumps(found[-1]))
    RESULT.write_text(json.dumps({"hardware": hardware(), "measured": found}, indent=1) + "\n")
    replace_section(RESULTS, "training scale", section(found))


def _start(project: Path, objective: str, tree: Path) -> dict[str, Any]:
    pinned = ["taskset", "-c", "0"] if shutil.which("taskset") else []
    call = [*pinned, sys.executable, str(Path(__file__).with_name("start.py")), str(project), objective]
    taken = measure_call(call, project, objective, tree)
    *parts, digest = (project / f"{objective}.log").read_text().splitlines()
    return {**taken, "load": os.getloadavg()[0], "parts": parts, "digest": digest}


def section(found: list[dict[str, Any]]) -> str:
    """What RESULTS.md says."""
    header = ["labels", "code", "objective", *COST]
    cells = [
        [
            f"{each['labels']:,}",
            each["code"],
            each["objective"],
            *cost_cells(each),
        ]
        for each in found
    ]
    loads = [each["load"] for each in found]
    return (
        "## The start of a training on millions of labels\n\nAll that comes before the model is loaded, on one core: "
        "labels, their join with the images, units, the plan of the cache, its files, the first batches; 10 samples a "
        "prompt, shards of 1,000, tensors of some bytes (`python -m benchmarks.training.scale`, "
        f"`training_scale.json`). {described(hardware())} Load of the machine: {min(loads):.1f} to {max(loads):.1f}."
        f"\n\n{table(header, cells)}"
    )


if __name__ == "__main__":
    typer.run(main)
