"""The results of the study as files of the repository, from which a later run and anyone's own analysis begin.

`UNITS` has a line for each unit, `SAMPLES` the paired scores of the units on the test captions. `CONDITIONS` are the
parameters that all of them began with. The trials of the diffusion base are read back from docs/LOG.md (2026-12-01): of
each one the target alone, to two decimals.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.objectives.units import ROOT, TEST
from benchmarks.results import rounded
from tgo_pipeline.evaluation.statistics.scores import ALL

if TYPE_CHECKING:
    from benchmarks.objectives.units import Result, Study

FOLDER = ROOT / "benchmarks/objectives/kept"
UNITS, SAMPLES, CONDITIONS = "units.jsonl", "samples.parquet", "params.yaml"
UNIT = "unit"
"""The column of the samples that names their unit."""


def pack(study: Study, folder: Path = FOLDER) -> int:
    """Write what the work folder holds of these parameters; how many units those are."""
    import polars as pl

    from tgo_pipeline.storage.writing import atomic

    results = study.kept()
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(study.work / CONDITIONS, folder / CONDITIONS)
    with atomic(folder / UNITS) as temporary:
        temporary.write_text("".join(f"{json.dumps(line)}\n" for line in map(_line, results)))
    shown = [result for result in results if result.unit.split == TEST and result.samples.is_file()]
    if shown:
        tables = (
            pl.read_parquet(each.samples).with_columns(pl.lit(each.samples.stem).alias(UNIT))
            for each in shown
        )
        pl.concat(tables).write_parquet(folder / SAMPLES, compression="zstd", compression_level=19)
    return len(results)


def _line(result: Result) -> dict[str, Any]:
    content = dataclasses.asdict(result)
    content["rows"] = [row for row in content["rows"] if row["test_set"] == ALL]  # others are in the samples
    return {"name": content.pop("samples").stem, **rounded(content), "unit": content["unit"]}


def unpack(work: Path, folder: Path = FOLDER) -> None:
    """Begin a new work folder with the packed results; one that is there is left as it is."""
    if (work / CONDITIONS).is_file() or not (folder / CONDITIONS).is_file():
        return
    results = work / "results"
    results.mkdir(parents=True, exist_ok=True)
    samples = _samples(folder / SAMPLES)
    for line in _lines(folder / UNITS):
        name = line.pop("name")
        if name in samples:
            samples[name].write_parquet(results / f"{name}.parquet")
        (results / f"{name}.json").write_text(json.dumps({**line, "samples": f"{name}.parquet"}) + "\n")
    shutil.copyfile(folder / CONDITIONS, work / CONDITIONS)


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open() as stream:
        yield from map(json.loads, stream)


def _samples(path: Path) -> dict[str, Any]:
    import polars as pl

    if not path.is_file():
        return {}
    parts = pl.read_parquet(path).partition_by(UNIT, as_dict=True, include_key=False)
    return {name: table for (name,), table in parts.items()}
