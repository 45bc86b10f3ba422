"""Tables: what is stored and how, and what other libraries read in it."""

import io
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from tgo_pipeline.errors import TgoError
from tgo_pipeline.storage import tables


def png(value: int, size: int = 8) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((size, size, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def generations(images: list[bytes]) -> pa.Table:
    n = len(images)
    columns = {
        "sample_id": [f"s{i}" for i in range(n)],
        "prompt_id": ["p"] * n,
        "prompt": ["a red circle"] * n,
        "image": [{"bytes": image, "path": None} for image in images],
        "width": [8] * n,
        "height": [8] * n,
        "model": ["demo"] * n,
        "revision": [None] * n,
        "seed": list(range(n)),
        "index": list(range(n)),
        "guidance_scale": [1.0] * n,
        "steps": [12] * n,
        "image_uid": [None] * n,
    }
    return pa.table(columns, schema=tables.GENERATIONS)


def test_image_bytes_are_stored_plain(tmp_path: Path):
    path = tmp_path / "shard.parquet"
    tables.write_table(generations([png(0), png(1)]), path, {"fingerprint": "f"})
    group = pq.ParquetFile(path).metadata.row_group(0)
    columns = {group.column(i).path_in_schema: group.column(i) for i in range(group.num_columns)}
    assert columns["image.bytes"].compression == "UNCOMPRESSED"
    assert not columns["image.bytes"].has_dictionary_page
    assert columns["prompt"].has_dictionary_page
    assert columns["prompt"].compression == "ZSTD"
    assert columns["seed"].has_offset_index


def test_row_groups_are_bounded_by_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(tables, "ROW_GROUP_BYTES", 4096)
    noise = np.random.default_rng(0).integers(0, 256, (40, 1000), np.uint8)
    path = tmp_path / "shard.parquet"
    tables.write_table(generations([row.tobytes() for row in noise]), path, {})
    metadata = pq.ParquetFile(path).metadata
    sizes = [metadata.row_group(i).total_byte_size for i in range(metadata.num_row_groups)]
    assert len(sizes) >= 8
    assert max(sizes) < 3 * 4096


def test_datasets_decodes_images_and_labels(tmp_path: Path):
    datasets = pytest.importorskip("datasets")
    tables.write_table(generations([png(0), png(200)]), tmp_path / "train-00000-of-00001.parquet", {})
    loaded = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "train-*.parquet"), cache_dir=str(tmp_path / "cache")
    )["train"]
    assert loaded.features["image"] == datasets.Image()
    assert loaded[1]["image"].getpixel((0, 0)) == (200, 200, 200)

    row = {"sample_id": "s", "prompt_id": "p", "reward": "clip", "score": 1.0, "relative_score": 0.5}
    labels = pa.Table.from_pylist([{**row, "label": 1, "weight": 3.5}], schema=tables.LABELS)
    tables.write_table(labels, tmp_path / "labels.parquet", {})
    loaded = datasets.load_dataset(
        "parquet", data_files=str(tmp_path / "labels.parquet"), cache_dir=str(tmp_path / "cache")
    )["train"]
    assert loaded.features["label"].names == ["negative", "positive"]
    assert loaded[0]["label"] == 1


def test_metadata_and_rewards_with_dots_survive(tmp_path: Path):
    schema = tables.scores_schema(["hpsv2.1", "clip"])
    table = pa.table([["s"], ["p"], [0.25], [None], [None]], schema=schema)
    path = tmp_path / "scores.parquet"
    tables.write_table(table, path, {"fingerprint": "f", "columns": {"hpsv2.1": "x"}})
    assert tables.read_metadata(path) == {"fingerprint": "f", "columns": {"hpsv2.1": "x"}}
    (tmp_path / ".tmp-1-scores.parquet").write_bytes(b"half of a shard")
    assert tables.read_folder(tmp_path).row(0) == ("s", "p", 0.25, None, None)


def test_a_wrong_file_is_named_with_its_columns(tmp_path: Path):
    path = tmp_path / "wrong.parquet"
    pq.write_table(pa.table({"prompt_id": [1]}), path)
    with pytest.raises(TgoError, match=r"wrong\.parquet: column 'prompt_id' is int64, expected string"):
        tables.read_table(path, tables.PROMPTS)
    with pytest.raises(TgoError, match=r"has no column 'sample_id'; its columns are prompt_id"):
        tables.read_table(path, tables.scores_schema([]))
    with pytest.raises(TgoError, match=r"has no column 'image'; its columns are prompt_id"):
        tables.read_table(path, columns=["image"])
    path.write_bytes(b"not parquet at all")
    with pytest.raises(TgoError, match=r"wrong\.parquet cannot be read as Parquet.*delete it"):
        tables.read_table(path)
    with pytest.raises(TgoError, match=r"cannot be read as Parquet"):
        tables.read_metadata(path)
    with pytest.raises(TgoError, match="does not exist: run the stage"):
        tables.read_table(tmp_path / "absent.parquet")
    with pytest.raises(TgoError, match="holds no Parquet shard"):
        tables.read_folder(tmp_path / "absent")


def test_a_long_text_lies_in_the_footer_once(tmp_path: Path):
    table, text = generations([png(0)]), "x" * 100_000
    plain, more = tmp_path / "plain.parquet", tmp_path / "more.parquet"
    tables.write_table(table, plain, {"failed": 0})
    tables.write_table(table, more, {"failed": 0}, {"long": text})
    assert tables.read_footer(more, "long") == text
    assert tables.read_footer(more, "other") is tables.read_footer(plain, "long") is None
    assert more.stat().st_size - plain.stat().st_size < 1.01 * len(text)
    assert pq.read_table(more).equals(table)
    assert pq.read_schema(more).equals(pq.read_schema(plain), check_metadata=True)


def test_columns_of_many_files_are_those_of_each(tmp_path: Path) -> None:
    paths = [tmp_path / f"{number}.parquet" for number in range(3)]
    for number, path in enumerate(paths):
        tables.write_table(generations([png(number)] * (number + 1)), path, {"fingerprint": "f"})
    found = tables.read_columns(paths, ["prompt", "sample_id"], ["prompt"])
    each = [tables.read_table(path, columns=["sample_id", "prompt"]) for path in paths]
    assert pa.types.is_dictionary(found["prompt"].type)
    for name in ("sample_id", "prompt"):
        assert found[name].to_pylist() == [text for table in each for text in table[name].to_pylist()]
    tables.write_table(pa.table({"sample_id": ["a"]}), paths[1], {})
    with pytest.raises(TgoError, match=r"1\.parquet has no column 'prompt'; its columns are sample_id\."):
        tables.read_columns(paths, ["prompt"])
    paths[1].write_bytes(b"PAR1")
    with pytest.raises(TgoError, match=r"1\.parquet cannot be read as Parquet"):
        tables.read_columns(paths, ["prompt"])
    (tmp_path / ".2.parquet.xxh3").write_text(f"{'0' * 32}  2.parquet\n")
    with pytest.raises(TgoError, match=r"2\.parquet is damaged"):
        tables.read_columns(paths[2:], ["prompt"])
    assert tables.read_columns(paths[2:], ["sample_id"], check=False).num_rows == 3
