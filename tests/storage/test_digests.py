"""Files are held against the digest of what was written, whichever library reads them."""

from __future__ import annotations

import logging
import random
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
import torch
import xxhash

from fine_tune.data.tensors import read_tensors, write_tensors
from tests.rewriting import forget_digest, rewrite
from tgo_pipeline.doctor.audit import audit
from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage import digests
from tgo_pipeline.storage.fingerprints import content_fingerprint
from tgo_pipeline.storage.shards import Mark, Shard, parts_folder, run_shards
from tgo_pipeline.storage.tables import open_parquet, read_folder, read_table, scan
from tgo_pipeline.storage.workspace import Workspace
from tgo_pipeline.storage.writing import atomic, atomic_folder, remove_folder

TABLE = pa.table({"sample_id": [f"s{i}" for i in range(200)], "clip": [i / 7 for i in range(200)]})
READERS: dict[str, Callable[[Path], object]] = {
    "read_table": read_table,
    "read_folder": lambda path: read_folder(path.parent),
    "polars": lambda path: scan([path]).collect(),
    "in parts": lambda path: _in_parts(path),
}


def _in_parts(path: Path) -> list[pa.RecordBatch]:
    with open_parquet(path) as file:
        return list(file.iter_batches(64))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "scores" / "train-00000-of-00001.parquet"
    rewrite(TABLE, path, {})
    return path


def flip(path: Path, bit: int) -> None:
    data = bytearray(path.read_bytes())
    data[bit // 8] ^= 1 << bit % 8
    path.write_bytes(data)


def test_the_sidecar_is_what_the_tool_of_that_name_writes(shard: Path) -> None:
    expected = xxhash.xxh3_128_hexdigest(shard.read_bytes())
    beside = shard.with_name(".train-00000-of-00001.parquet.xxh3")
    assert beside.read_text() == f"{expected}  train-00000-of-00001.parquet\n"
    tool = shutil.which("xxh128sum")
    if tool is not None:
        subprocess.run([tool, "--check", beside.name], cwd=shard.parent, check=True)


@pytest.mark.parametrize("reader", READERS)
def test_a_file_whose_bits_flipped_is_refused_by_every_reader(shard: Path, reader: str) -> None:
    before, draw = shard.read_bytes(), random.Random(7)
    READERS[reader](shard)
    for bit in draw.sample(range(8 * len(before)), 60):
        flip(shard, bit)
        with pytest.raises(
            TgoError, match=r"train-00000-of-00001.parquet is damaged: its bytes are not those"
        ):
            READERS[reader](shard)
        shard.write_bytes(before)
    assert READERS[reader](shard) is not None


def test_tensors_whose_bits_flipped_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "train-00000-of-00001.safetensors"
    with atomic(path) as temporary:
        write_tensors({"latents": torch.arange(64.0)}, temporary, {})
    before = path.read_bytes()
    for bit in random.Random(7).sample(range(8 * len(before)), 60):
        flip(path, bit)
        with pytest.raises(TgoError, match="is damaged"):
            read_tensors(path)
        path.write_bytes(before)
    assert read_tensors(path)[0]["latents"].tolist() == list(range(64))


def test_a_sidecar_that_is_damaged_is_named(shard: Path) -> None:
    digests.sidecar(shard).write_bytes(b"\xff\x00")
    with pytest.raises(TgoError, match=r"\.train-00000-of-00001\.parquet\.xxh3 is damaged"):
        read_table(shard)


def test_a_file_of_before_is_read_and_that_is_said_once_for_its_folder(
    shard: Path, caplog: pytest.LogCaptureFixture
) -> None:
    forget_digest(shard)
    caplog.set_level(logging.INFO, "tgo")
    assert read_table(shard).num_rows == read_folder(shard.parent).height == 200
    (said,) = [message for message in caplog.messages if "without a digest" in message]
    assert str(shard.parent) in said and "tgo status --verify" in said


def test_a_kill_between_a_shard_and_its_sidecar_is_mended_by_the_next_run(tmp_path: Path) -> None:
    """The old sidecar goes before the new file comes, so that none is of another content."""
    planned = [Shard("train", 0, 1, "f")]
    path = tmp_path / planned[0].name
    rewrite(TABLE, path, planned[0].mark.entries())
    forget_digest(path)
    run_shards(tmp_path, planned, lambda *_: pytest.fail("the shard is there"))
    assert digests.stored(path) == digests.computed(path)


def test_what_a_shard_was_made_from_is_compared_where_it_is_known() -> None:
    planned = Mark("f", "now")
    assert planned.fits({"fingerprint": "f", "inputs": "now"})
    assert not planned.fits({"fingerprint": "f", "inputs": "before"})
    assert not planned.fits({"fingerprint": "g", "inputs": "now"})
    assert planned.fits({"fingerprint": "f"}), "a result from before there were digests"
    assert Mark("f").fits({"fingerprint": "f", "inputs": "now"}), "inputs that are not there"
    assert not planned.fits({})


def test_a_folder_that_is_written_whole_holds_the_digests_of_its_files(tmp_path: Path) -> None:
    model = tmp_path / "models/tuned"
    with atomic_folder(model) as temporary:
        (temporary / "unet").mkdir()
        (temporary / "unet/config.json").write_text("{}")
        (temporary / "weights.safetensors").write_bytes(bytes(999))
    digests.verify_folder(model)
    before = content_fingerprint(model)
    for path in ("unet/config.json", "weights.safetensors"):
        flip(model / path, 3)
        with pytest.raises(TgoError, match=f"{path} is damaged"):
            digests.verify_folder(model)
        flip(model / path, 3)
    (model / "weights.safetensors").rename(tmp_path / "away")
    with pytest.raises(TgoError, match=r"weights.safetensors is damaged"):
        digests.verify_folder(model)
    (tmp_path / "away").rename(model / "weights.safetensors")
    (model / digests.MANIFEST).unlink()
    digests.verify_folder(model)
    assert content_fingerprint(model) == before, "what a folder holds does not depend on its digests"


def test_an_audit_reads_all_files_and_notes_what_is_missing(tmp_path: Path) -> None:
    work = Workspace(tmp_path)
    for path in (work.prompts, work.scores / "train-00000-of-00001.parquet", work.labels / "a.parquet"):
        rewrite(TABLE, path, {})
    with atomic_folder(work.model) as temporary:
        (temporary / "model_index.json").write_text("{}")
    forget_digest(work.prompts)
    (work.model / digests.MANIFEST).unlink()
    drawn = parts_folder(work.generations / "train-00000-of-00002.parquet") / "00000-00064.parquet"
    rewrite(TABLE, drawn, {})
    flip(
        drawn, 99
    )  # what is drawn of a shard is held against its digest when it is taken up, and not counted before
    found = audit(work)
    assert (found.right, found.noted, found.damaged) == (2, 2, [])
    assert audit(work).right == 4
    flip(work.labels / "a.parquet", 99)
    (work.model / "model_index.json").write_text("[]")
    found = audit(work)
    assert found.right == 2 and len(found.damaged) == 2
    assert "data/labels/a.parquet is damaged" in found.damaged[0]
    assert "models/tuned/model_index.json is damaged" in found.damaged[1]


def test_a_folder_goes_whole(tmp_path: Path) -> None:
    folder = tmp_path / "parts"
    folder.mkdir()
    (folder / "a").touch()
    remove_folder(folder)
    remove_folder(folder)
    assert list(tmp_path.iterdir()) == []
