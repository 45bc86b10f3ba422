"""What the digests of stored files cost: their rate beside reading a folder of scores, and their share of scoring.

    OMP_NUM_THREADS=1 POLARS_MAX_THREADS=1 python -m benchmarks.digests [--rows 10000000]

The folder of scores (five rewards) is written to a temporary folder, and hashed and read in turn from the page cache.
Scoring is the demo's: images drawn once, then scored with five rewards; the clock runs inside `digests.computed`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import typer

from benchmarks.results import described, hardware
from tgo_pipeline.params import RuntimeParams
from tgo_pipeline.storage import digests
from tgo_pipeline.storage.paths import parquet_files
from tgo_pipeline.storage.tables import scores_schema, write_table
from tgo_pipeline.storage.writing import atomic

REWARDS = ("hpsv2.1", "pickscore", "imagereward", "clip", "aesthetic")
SHARD_ROWS = 500_000
TURNS = 3


def write_scores(folder: Path, rows: int) -> None:
    draw = np.random.default_rng(0)
    count = -(-rows // SHARD_ROWS)
    for index in range(count):
        first, size = index * SHARD_ROWS, min(SHARD_ROWS, rows - index * SHARD_ROWS)
        prompts = pl.Series(np.arange(first, first + size) // 4).cast(pl.String).str.zfill(16)
        samples = prompts + "-" + pl.Series(np.arange(first, first + size) % 4).cast(pl.String).str.zfill(4)
        texts = [samples.to_arrow().cast(pa.string()), prompts.to_arrow().cast(pa.string())]
        columns = [pa.array(draw.normal(size=size).astype(np.float32)) for _ in REWARDS]
        table = pa.table([*texts, *columns, pa.nulls(size, pa.string())], schema=scores_schema(REWARDS))
        with atomic(folder / f"train-{index:05d}-of-{count:05d}.parquet") as temporary:
            write_table(table, temporary, {})


def seconds(work: Callable[..., object], *arguments: object) -> float:
    """The least time of a few turns."""
    taken = []
    for _ in range(TURNS):
        start = time.perf_counter()
        work(*arguments)
        taken.append(time.perf_counter() - start)
    return min(taken)


def hash_all(files: list[Path]) -> None:
    digests._computed.cache_clear()
    for file in files:
        digests.verify(file)


def rates(rows: int) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        write_scores(folder, rows)
        files = parquet_files(folder)
        size = sum(file.stat().st_size for file in files)
        hashing = seconds(hash_all, files)
        arrow = seconds(lambda: [pq.read_table(file) for file in files])
        polars = seconds(lambda: pl.scan_parquet(files).collect())
    typer.echo(
        f"{rows:,} rows, {size / 1e9:.2f} GB in {len(files)} shards: digests {hashing:.2f} s "
        f"({size / hashing / 1e9:.1f} GB/s), pyarrow {arrow:.2f} s, polars {polars:.2f} s: "
        f"{hashing / arrow:.1%} and {hashing / polars:.1%} of reading"
    )


def share(prompts: int) -> None:
    """Of the demo's score stage, start of its processes and loading of its rewards included."""
    from tgo_pipeline.demo import world
    from tgo_pipeline.generators import generate_folder
    from tgo_pipeline.params import GenerateParams
    from tgo_pipeline.scoring.stage import score_folder

    spent = 0.0
    computed = digests.computed

    def timed(path: Path) -> str:
        nonlocal spent
        start = time.perf_counter()
        found = computed(path)
        spent += time.perf_counter() - start
        return found

    with tempfile.TemporaryDirectory() as scratch:
        folder, runtime = Path(scratch), RuntimeParams(device="cpu", threads=1, workers=0)
        chosen = [(f"p{i:05d}", text) for i, text in enumerate(world.captions("plain", "train")[:prompts])]
        generate_folder(
            folder / "generations",
            chosen,
            split="train",
            model="demo",
            revision=None,
            params=GenerateParams(images_per_prompt=4, steps=2, guidance_scale=1.0),
            images_per_prompt=4,
            seed=0,
            purpose="generate",
            runtime=runtime,
        )
        digests._computed.cache_clear()
        start = time.perf_counter()
        with mock.patch.object(digests, "computed", timed):
            score_folder(
                folder / "generations",
                folder / "scores",
                dict.fromkeys(REWARDS, "demo"),
                runtime=runtime,
                max_error_rate=0.0,
            )
        whole = time.perf_counter() - start
    typer.echo(
        f"scoring {4 * len(chosen):,} images with five rewards: {whole:.1f} s, of which digests {1000 * spent:.1f} ms, "
        f"{spent / whole:.2%}"
    )


def main(rows: int = 10_000_000, prompts: int = 200) -> None:
    typer.echo(described(hardware()))
    rates(rows)
    share(prompts)


if __name__ == "__main__":
    typer.run(main)
