"""Where the values of a Parquet column lie: each is what Arrow reads, or the whole column is left to Arrow."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.parquet_values import StoredValue, locate
from tgo_pipeline.storage.tables import IMAGE, write_table

RNG = np.random.default_rng(0)


def column(sizes: list[int | None]) -> pa.Table:
    """Images of so many random bytes; None for one that is missing."""
    images = [None if size is None else {"bytes": RNG.bytes(size), "path": "a.png"} for size in sizes]
    return pa.table({"image": pa.array(images, IMAGE)})


def found(path: Path, name: str = "image.bytes") -> list[StoredValue | None] | None:
    with pq.ParquetFile(path) as file:
        return locate(file, path, name)


def plain(path: Path, table: pa.Table, **options: Any) -> None:
    pq.write_table(table, path, **{"compression": "NONE", "use_dictionary": False, **options})


SIZES: dict[str, list[int | None]] = {
    "large ones, several pages": [300_000 + 1000 * row for row in range(30)],
    "small ones, some missing": [None if row % 3 == 1 else row % 50 for row in range(5000)],
    "missing in long and in short runs": [None] * 700 + [5, None, 7] * 40 + [9] * 900 + [None],
    "all missing": [None] * 20,
    "none": [],
}


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_every_value_is_what_arrow_reads(tmp_path: Path, sizes: list[int | None]) -> None:
    table, ours, others = column(sizes), tmp_path / "a.parquet", tmp_path / "b.parquet"
    write_table(table, ours, {})
    plain(others, table, row_group_size=97, data_page_size=2000, write_statistics=["image.bytes"])
    expected = [image and image["bytes"] for image in table["image"].to_pylist()]
    for path in (ours, others):
        places = found(path)
        assert places is not None
        assert [place and place.read() for place in places] == expected


def test_a_column_without_missing_values_has_no_levels(tmp_path: Path) -> None:
    values = [RNG.bytes(size) for size in range(100)]
    schema = pa.schema([pa.field("data", pa.binary(), nullable=False)])
    plain(tmp_path / "a.parquet", pa.table({"data": values}, schema=schema))
    places = found(tmp_path / "a.parquet", "data")
    assert places is not None
    assert [place and place.read() for place in places] == values


OTHERS: dict[str, dict[str, Any]] = {
    "compressed": {"compression": "snappy"},
    "a dictionary": {"use_dictionary": True},
    "other pages": {"data_page_version": "2.0"},
    "another encoding": {"column_encoding": {"image.bytes": "DELTA_LENGTH_BYTE_ARRAY"}},
}


@pytest.mark.parametrize("options", OTHERS.values(), ids=OTHERS)
def test_what_does_not_lie_there_as_it_is_is_left_to_arrow(tmp_path: Path, options: dict[str, Any]) -> None:
    plain(tmp_path / "a.parquet", column([10, 20, None]), **options)
    assert found(tmp_path / "a.parquet") is None


def test_lists_and_other_types_are_left_to_arrow(tmp_path: Path) -> None:
    table = pa.table({"list": [[b"a", b"b"]], "number": [1], "fixed": pa.array([b"abcd"], pa.binary(4))})
    plain(tmp_path / "a.parquet", table)
    for name in ("list.list.element", "number", "fixed", "missing"):
        assert found(tmp_path / "a.parquet", name) is None


def test_damaged_pages_are_left_to_arrow(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    plain(path, column([100, None, 300]))
    with pq.ParquetFile(path) as file:
        start = file.metadata.row_group(0).column(0).data_page_offset
        whole = path.read_bytes()
        for at in range(start, start + 60):  # the header, the levels and the first length
            for value in {0, 1, 0x1C, 0x7F, 0xFF, whole[at] ^ 1, whole[at] ^ 0x80}:
                path.write_bytes(whole[:at] + bytes([value]) + whole[at + 1 :])
                places = locate(file, path, "image.bytes")
                assert places is None or all(
                    place is None or place.offset + place.length <= len(whole) for place in places
                )
        path.write_bytes(whole[:start] + b"\x1c" * (len(whole) - start))  # structs in structs without an end
        assert locate(file, path, "image.bytes") is None


def test_a_file_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    plain(path, column([100, 200]))
    first, second = found(path) or []
    assert first is not None
    assert second is not None
    path.rename(tmp_path / "old.parquet")
    with pytest.raises(TgoError, match=r"a\.parquet cannot be read any more \(No such file.*run again"):
        first.read()
    plain(path, column([100, 200]))
    with pytest.raises(TgoError, match=r"a\.parquet was changed while it was read"):
        second.read()


def test_many_threads_read_from_many_files(tmp_path: Path) -> None:
    places = []
    for number in range(8):  # more than stay open
        path = tmp_path / f"{number}.parquet"
        plain(path, column([100 + number] * 30))
        places += found(path) or []
    ordered = [places[30 * number + row] for row in range(30) for number in range(8)]
    expected = [place and place.read() for place in ordered]
    with ThreadPoolExecutor(8) as threads:
        for _ in range(5):
            assert list(threads.map(lambda place: place and place.read(), ordered)) == expected
