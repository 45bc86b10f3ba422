"""A folder of 100,000 shards, metadata only: what plan, status, a run, claims and the sweep take.

python -m benchmarks.shards                                 # 99,999 shards of 10,000 images: a billion
python -m benchmarks.shards --count 1000 --room /dev/shm

A name has five digits, so 99,999 shards are the most. Generations hold their schema and fingerprint and no row; scores
are written by a worker that computes nothing. Everything else is the code of the score stage and of its executors.
"""

from __future__ import annotations

import functools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import typer

from benchmarks.results import RESULTS, described, hardware, replace_section, table
from tgo_pipeline.executors import MakeWorker, Worker, execute, one_by_one
from tgo_pipeline.executors.claims import Claims
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.scoring import stage
from tgo_pipeline.storage import digests, shards
from tgo_pipeline.storage.shards import Shard, Stop
from tgo_pipeline.storage.tables import GENERATIONS, scores_schema, write_table

RESULT = Path(__file__).parent / "shards.json"
IMAGES = 10_000
"""Of a shard, in words alone."""
T = TypeVar("T")


def write_generations(folder: Path, count: int) -> None:
    """Shards without rows: one file's bytes under every name, with its digest."""
    folder.mkdir(parents=True)
    first = folder / f"train-{0:05d}-of-{count:05d}.parquet"
    write_table(GENERATIONS.empty_table(), first, {"fingerprint": "none"})
    digest, content = digests.computed(first), first.read_bytes()
    for index in range(count):
        path = folder / f"train-{index:05d}-of-{count:05d}.parquet"
        path.write_bytes(content)
        digests.sidecar(path).write_text(digests.line(path, digest))


def write_score(folder: Path, content: bytes, digest: str, shard: Shard) -> None:
    """A shard of scores without rows; not synced, since a disk takes longer for that than for all else."""
    path = folder / shard.name
    temporary = path.with_name(f".tmp-{path.name}")
    temporary.write_bytes(content)
    digests.sidecar(path).write_text(digests.line(path, digest))
    temporary.replace(path)


def make_worker(folder: Path, content: bytes, digest: str, runtime: RuntimeParams) -> Worker:
    """A worker that writes the same bytes under every name: generations without rows have one fingerprint."""
    return one_by_one(functools.partial(write_score, folder, content, digest))


def main(count: int = 99_999, room: Path | None = None) -> None:
    """Write the folder, take the time of each part, and record."""
    with tempfile.TemporaryDirectory(dir=room) as name:
        found = measure(Path(name), count)
    if count < 99_999:
        return
    RESULT.write_text(json.dumps({"hardware": hardware(), "measured": found}, indent=1) + "\n")
    replace_section(RESULTS, "shards", section(count, found))


def measure(root: Path, count: int) -> list[dict[str, Any]]:
    """Seconds on the clock and of the processor of each part."""
    generations, scores = root / "generations", root / "scores"
    write_generations(generations, count)
    found: list[dict[str, Any]] = []

    def timed(what: str, work: Callable[[], T]) -> T:
        clock_s, own_s = time.perf_counter(), time.process_time()
        result = work()
        taken = {"seconds": time.perf_counter() - clock_s, "processor_s": time.process_time() - own_s}
        found.append({"what": what, "load": os.getloadavg()[0], **taken})
        typer.echo(json.dumps(found[-1]))
        return result

    def written(executor: str, together: bool, maker: MakeWorker) -> None:
        runtime = RuntimeParams(executor=executor)

        def work(todo: Sequence[Shard], stop: Stop) -> None:
            execute(todo, stop, maker, runtime)

        shards.run_shards(scores, plan, work, together=together)

    plan = timed("plan of the scores", lambda: stage.plan(generations, {"clip": "demo"}, "fp32"))
    example = root / "example.parquet"
    write_table(scores_schema(["clip"]).empty_table(), example, plan[0].mark.entries())
    maker = functools.partial(make_worker, scores, example.read_bytes(), digests.computed(example))
    timed("a run of one process that computes nothing", lambda: written("local", False, maker))
    timed("status, all done", lambda: shards.status(scores, plan))
    timed("a run with 0 to do, its sweep included", lambda: written("local", False, maker))
    timed("the same by ranks", lambda: written("ranks", True, maker))
    shutil.rmtree(scores)
    timed("a run by ranks that computes nothing: claims", lambda: written("ranks", True, maker))
    timed("claims alone: take and release each", lambda: _claim(scores, plan))
    timed("a sweep of half the shards, no longer planned", lambda: shards._sweep(scores, plan[::2]))
    return found


def _claim(folder: Path, plan: Sequence[Shard]) -> None:
    with Claims(folder) as claims:
        for shard in plan:
            claims.take(shard.name)
            claims.release(shard.name)


def section(count: int, found: list[dict[str, Any]]) -> str:
    """What RESULTS.md says."""
    cells = [[each["what"], f"{each['seconds']:.1f}", f"{each['processor_s']:.1f}"] for each in found]
    loads = [each["load"] for each in found]
    return (
        f"## A folder of {count:,} shards\n\nMetadata only, as of {count * IMAGES:,} images "
        f"(`python -m benchmarks.shards`, `shards.json`). {described(hardware())} Load of the machine: "
        f"{min(loads):.1f} to {max(loads):.1f}.\n\n{table(['what', 'seconds', 'processor seconds'], cells)}"
    )


if __name__ == "__main__":
    typer.run(main)
