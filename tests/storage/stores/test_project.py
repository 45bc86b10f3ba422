"""A whole project whose shards lie in an object store: the numbers of one whose shards lie here."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow.parquet as pq

from tests.object_store import BUCKET, objects
from tests.project import TOY, copy_project, run, set_params
from tgo_pipeline.storage.stores import stubs
from tgo_pipeline.storage.tables import read_table


def test_every_stage_works_from_a_store(s3: str, tmp_path: Path) -> None:
    here = copy_project(tmp_path / "here")
    there = copy_project(tmp_path / "there", runtime={**TOY["runtime"], "data": f"s3://{BUCKET}/project"})
    for project in (here, there):
        run(project, "tgo", "run", "all")
    for path in sorted((here / "data").rglob("[!.]*.parquet")):
        other = there / path.relative_to(here)
        assert read_table(other).equals(read_table(path)), path
    assert all(map(stubs.read_stub, (there / "data" / "generations").glob("[!.]*.parquet")))
    assert (there / "report.html").is_file()

    # another machine has what git and DVC carry but for the generations, and nothing to do
    shutil.rmtree(there / "data" / "generations")
    again = run(there, "tgo", "run", "all", variables={"TGO_CACHE": str(tmp_path / "other")})
    assert again.stdout.count("up to date") == 8
    uploaded = [key for key in objects(s3) if key.endswith(".parquet")]
    shards = [path for path in (here / "data").rglob("[!.]*-of-*.parquet") if "encoded" not in path.parts]
    assert len(uploaded) == len(shards)
    assert {pq.read_metadata(path).num_rows for path in (there / "data" / "generations").glob("train-*")} == {
        4
    }


def test_dvc_follows_stubs(s3: str, tmp_path: Path) -> None:
    project = copy_project(tmp_path / "there", runtime={**TOY["runtime"], "data": f"s3://{BUCKET}/project"})
    run(project, "dvc", "repro", "score")
    assert "Data and pipelines are up to date" in run(project, "dvc", "status", "score").stdout
    path = sorted((project / "data" / "generations").glob("[!.]*.parquet"))[0]
    stub, before = stubs.read_stub(path), path.read_bytes()
    assert stub is not None and len(before) < stub.size_bytes

    # a clone has DVC's cache and the store
    shutil.rmtree(project / "data" / "generations")
    run(project, "dvc", "checkout", "data/generations")
    assert path.read_bytes() == before
    assert read_table(path).num_rows == 4
    run(project, "dvc", "repro", "score")

    # another seed is another content by the stubs alone
    set_params(project, {"seed": 7})
    said = run(project, "dvc", "repro", "score").stdout
    assert "Running stage 'generate'" in said and "Running stage 'score'" in said
    assert path.read_bytes() != before
