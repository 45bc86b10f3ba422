"""Existing images arrive byte for byte from every kind of source, broken ones included."""

import csv
import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tgo_pipeline.errors import TgoError
from tgo_pipeline.images import import_folder as existing
from tgo_pipeline.params import GenerateParams
from tgo_pipeline.prompts import prompt_id
from tgo_pipeline.storage.tables import read_folder

CAPTIONS = ["a cat", "a cat", " a  cat ", "a dog", "a bird", "a secret", "", "a dog"]
EXCLUDED = {prompt_id("a secret")}
EXPECTED = [("a cat", 0), ("a cat", 1), ("a cat", 2), ("a dog", 0), ("a bird", 0), ("a dog", 1)]
TAKEN = [0, 1, 2, 3, 4, 7]


def _image(number: int, kind: str) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (10 + number, 20, 3), dtype=np.uint8)
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, kind)
    return stream.getvalue()


IMAGES = [_image(number, "JPEG" if number % 2 else "PNG") for number in range(len(CAPTIONS))]
IMAGES[3] = b"this is no image"
IMAGES[4] = IMAGES[4][:80]  # a header and nothing more


def _folder_csv(folder: Path) -> Path:
    (folder / "photos").mkdir(parents=True)
    for number, data in enumerate(IMAGES):
        (folder / "photos" / f"{number}.bin").write_bytes(data)
    names = [f"photos/{number}.bin" for number in range(len(IMAGES))]
    with (folder / "metadata.csv").open("w", newline="") as stream:
        csv.writer(stream).writerows([["file_name", "caption"], *zip(names, CAPTIONS, strict=True)])
    return folder


def _folder_jsonl(folder: Path) -> Path:
    _folder_csv(folder)
    with (folder / "metadata.csv").open(newline="") as stream:
        lines = [json.dumps(row) for row in csv.DictReader(stream)]
    (folder / "metadata.jsonl").write_text("\n".join(lines))
    (folder / "metadata.csv").unlink()
    return folder


def _parquet(column: pa.Array, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table({"image": column, "caption": CAPTIONS}), path, row_group_size=3)
    return path


def _struct(data: list[bytes | None], names: list[str | None]) -> pa.Array:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    return pa.array([{"bytes": b, "path": n} for b, n in zip(data, names, strict=True)], kind)


def _parquet_struct(folder: Path) -> Path:
    return _parquet(_struct(list(IMAGES), [f"{n}.png" for n in range(len(IMAGES))]), folder / "data.parquet")


def _parquet_binary(folder: Path) -> Path:
    return _parquet(pa.array(IMAGES, pa.large_binary()), folder / "data.parquet")


def _parquet_paths(folder: Path) -> Path:
    _folder_csv(folder)
    (folder / "metadata.csv").unlink()
    names: list[str | None] = [f"photos/{number}.bin" for number in range(len(IMAGES))]
    return _parquet(_struct([None] * len(IMAGES), names), folder / "data.parquet")


def _parquet_folder(folder: Path) -> Path:
    table = pq.read_table(_parquet_struct(folder / "all"))
    (folder / "all" / "data.parquet").unlink()
    pq.write_table(table.slice(0, 2), folder / "all" / "train-00000-of-00002.parquet")
    pq.write_table(table.slice(2), folder / "all" / "train-00001-of-00002.parquet")
    return folder


def _params(source: Path) -> GenerateParams:
    return GenerateParams(source="images", images=str(source), prompt_column="caption", shard_size=3)


def _import(source: Path, output: Path):
    return existing.import_folder(output, params=_params(source), split="train", excluded=EXCLUDED)


@pytest.mark.parametrize(
    "make", [_folder_csv, _folder_jsonl, _parquet_struct, _parquet_binary, _parquet_paths, _parquet_folder]
)
def test_every_kind_of_source(tmp_path: Path, make) -> None:
    source = make(tmp_path / "source")
    status = _import(source, tmp_path / "out")
    assert (status.done, status.failed) == (2, 1)
    rows = read_folder(tmp_path / "out").to_dicts()
    assert [(row["prompt"], row["index"]) for row in rows] == EXPECTED
    assert [row["sample_id"] for row in rows] == [
        f"{prompt_id(text)}-{index:04d}" for text, index in EXPECTED
    ]
    assert [row["image"]["bytes"] for row in rows] == [IMAGES[number] for number in TAKEN]
    sizes = [(row["width"], row["height"]) for row in rows]
    assert sizes == [(None, None) if number == 3 else (20, 10 + number) for number in TAKEN]
    assert {row["model"] for row in rows} == {"images"}
    assert {row["seed"] for row in rows} == {row["steps"] for row in rows} == {None}


def test_a_missing_file_keeps_its_row(tmp_path: Path) -> None:
    source = _folder_csv(tmp_path / "source")
    (source / "photos" / "0.bin").unlink()
    assert _import(source, tmp_path / "out").failed == 2
    assert read_folder(tmp_path / "out").to_dicts()[0]["image"] is None


def test_only_what_changed_is_read_again(tmp_path: Path) -> None:
    source, out = _folder_csv(tmp_path / "source"), tmp_path / "out"
    _import(source, out)
    before = {file.name: file.stat().st_mtime_ns for file in out.glob("*.parquet")}
    _import(source, out)
    assert {file.name: file.stat().st_mtime_ns for file in out.glob("*.parquet")} == before
    changed = source / "photos" / "7.bin"
    changed.write_bytes(IMAGES[1])
    os.utime(changed, ns=(1, 1))
    plan = existing.plan(params=_params(source), split="train", excluded=EXCLUDED)
    _import(source, out)
    after = {file.name: file.stat().st_mtime_ns for file in out.glob("*.parquet")}
    assert {name for name in after if after[name] != before[name]} == {plan[1].name}


def test_wrong_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(TgoError, match="does not exist"):
        _import(tmp_path / "nosuch", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(TgoError, match=r"metadata\.csv.*file_name.*to_parquet"):
        _import(tmp_path / "empty", tmp_path / "out")
    source = _folder_csv(tmp_path / "source")
    (source / "metadata.csv").write_text("file_name,text\na.png,a cat\n")
    with pytest.raises(TgoError, match=r"no column 'caption'; its columns are: file_name, text"):
        _import(source, tmp_path / "out")
    (source / "metadata.csv").write_text("file_name,caption\n../secret.png,a cat\n")
    with pytest.raises(TgoError, match="is not a file inside"):
        _import(source, tmp_path / "out")
    (source / "a.png").touch()
    (source / "metadata.csv").write_text("file_name,caption\na.png,a secret\n")
    with pytest.raises(TgoError, match=r"no image to take; 1 left out, their prompt is a test prompt"):
        _import(source, tmp_path / "out")
    with pytest.raises(TgoError, match=r"'image' is list<.*>, not images"):
        _import(_parquet(pa.array([[1]] * len(CAPTIONS)), tmp_path / "wrong.parquet"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_broken_parquet_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 junk")
    with pytest.raises(TgoError, match="cannot be read as Parquet"):
        _import(tmp_path / "broken.parquet", tmp_path / "out")


def test_a_damaged_page_of_a_parquet_is_named(tmp_path: Path) -> None:
    path = _parquet(pa.array(IMAGES, pa.binary()), tmp_path / "data.parquet")
    damaged = bytearray(path.read_bytes())
    damaged[4:60] = b"\xff" * 56
    path.write_bytes(damaged)
    with pytest.raises(TgoError, match=r"data\.parquet cannot be read as Parquet"):
        _import(path, tmp_path / "out")


def test_a_table_of_files_that_are_elsewhere_is_refused(tmp_path: Path) -> None:
    table = _folder_csv(tmp_path / "source") / "metadata.csv"
    elsewhere = tmp_path / "metadata.csv"
    elsewhere.write_text(table.read_text())
    with pytest.raises(TgoError, match=f"looked for .*0.bin and others.*relative to {tmp_path}"):
        _import(elsewhere, tmp_path / "out")


def test_a_misspelt_data_set_is_told_the_names(tmp_path: Path) -> None:
    with pytest.raises(TgoError, match="one of pickapic, hpdv2"):
        _import(Path("pickapick:/data"), tmp_path / "out")
