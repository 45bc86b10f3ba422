"""What a footer says of a column's pieces: what Arrow says of them, and nothing ends over a damaged one."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tgo_pipeline.formats.parquet_footer import ColumnChunk, chunks
from tgo_pipeline.formats.parquet_values import locate

TABLE = pa.table(
    {
        "image": [{"bytes": b"abc" * row, "path": None} for row in range(40)],
        "text": [None, "a", "b", "c"] * 10,
        "lists": [[1.5, None], None, [], [2.0]] * 10,
        "dotted.name": range(40),
        "day": pa.array(range(40), pa.date32()),
        "flag": [True, False] * 20,
    }
)
WRITTEN = {
    "plain": {"compression": "NONE", "use_dictionary": False},
    "row groups": {"row_group_size": 7},
    "newer pages": {"data_page_version": "2.0", "version": "2.6", "write_page_index": True},
    "no statistics": {"write_statistics": False, "store_schema": False},
    "checksums": {"write_page_checksum": True, "compression": "zstd"},
}


def of_arrow(path: Path, column: str) -> list[ColumnChunk]:
    found = []
    metadata = pq.read_metadata(path)
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        for one in map(group.column, range(group.num_columns)):
            if one.path_in_schema == column:
                plain = one.compression == "UNCOMPRESSED" and not one.has_dictionary_page
                nulls = one.statistics.null_count if one.statistics else None
                size = one.total_compressed_size
                found.append(
                    ColumnChunk(group.num_rows, one.num_values, nulls, plain, one.data_page_offset, size)
                )
    return found


@pytest.mark.parametrize("options", WRITTEN.values(), ids=WRITTEN)
def test_it_says_what_arrow_says(tmp_path: Path, options: dict[str, object]) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(TABLE, path, **options)
    assert {"image.bytes", "lists.list.element", "dotted.name"} <= {*_leaves(path)}
    for column in _leaves(path):
        assert chunks(path, column) == of_arrow(path, column)


def test_a_file_of_another_writer(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pl.from_arrow(TABLE).lazy().sink_parquet(path, row_group_size=16)
    for column in _leaves(path):
        assert chunks(path, column) == of_arrow(path, column)


def _leaves(path: Path) -> list[str]:
    schema = pq.ParquetFile(path).schema
    return [schema.column(number).path for number in range(len(schema))]


def test_what_is_not_there_is_not_said(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    assert chunks(path, "text") is None
    path.write_bytes(b"PAR1")
    assert chunks(path, "text") is None
    path.write_bytes(b"PAR1" + b"\xff\xff\xff\xff" + b"PAR1")
    assert chunks(path, "text") is None
    pq.write_table(TABLE, path)
    assert chunks(path, "other") is None


def test_a_damaged_footer_ends_nothing(tmp_path: Path) -> None:
    """Arrow's own accessor of a column's metadata ends the process over some of these files."""
    whole, damaged = tmp_path / "whole.parquet", tmp_path / "a.parquet"
    pq.write_table(TABLE, whole, compression="NONE", use_dictionary=False)
    data = whole.read_bytes()
    start = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    told = 0
    with pq.ParquetFile(whole) as file:
        for at in range(start, len(data)):
            for value in (0x7F, data[at] ^ 1):
                damaged.write_bytes(data[:at] + bytes([value]) + data[at + 1 :])
                told += chunks(damaged, "image.bytes") is not None
                locate(file, damaged, "image.bytes")
    assert 0 < told < 2 * (len(data) - start)
