"""Images in Parquet: where they lie in their file, or their bytes where it compresses them; the same rows both ways."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.rewards.tiny import png, smooth_image
from tgo_pipeline.errors import TgoError
from tgo_pipeline.formats.parquet_values import StoredValue
from tgo_pipeline.images.base import Row
from tgo_pipeline.images.columns import Columns
from tgo_pipeline.images.tables import ParquetFile
from tgo_pipeline.scoring.command.kept import row_key
from tgo_pipeline.storage.tables import IMAGE

IMAGES = [None if row % 4 == 1 else png(smooth_image(8 + row, 8)) for row in range(40)]
STRUCTS = [image and {"bytes": image, "path": f"{row}.png"} for row, image in enumerate(IMAGES)]
TABLES = {
    "structs": pa.table({"image": pa.array(STRUCTS, IMAGE), "prompt": [f"fox {row}" for row in range(40)]}),
    "bytes": pa.table({"prompt": [f"fox {row}" for row in range(40)], "image": IMAGES}),
    "bytes alone": pa.table({"image": IMAGES}),
    "structs of bytes": pa.table({"image": [image and {"bytes": image} for image in IMAGES]}),
}


def read(row: Row) -> Row:
    """A row with the bytes of its image."""
    return row._replace(content=row.content.read() if isinstance(row.content, StoredValue) else row.content)


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES)
def test_rows_are_the_same_with_places_and_with_bytes(tmp_path: Path, table: pa.Table) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(table, path, row_group_size=17)
    for start, stop in ((0, 40), (20, 30)):
        compressed = list(ParquetFile(str(path), Columns()).rows(start, stop))
        pq.write_table(table, path, row_group_size=17, compression="NONE", use_dictionary=False)
        places = list(ParquetFile(str(path), Columns()).rows(start, stop))
        assert {type(row.content) for row in places} == {StoredValue, type(None)}
        assert {type(row.content) for row in compressed} == {bytes, type(None)}
        assert [read(row) for row in places] == compressed
        assert [row.content for row in compressed] == IMAGES[start:stop]
        assert [row_key(row.content, "") for row in places] == [
            row_key(row.content, "") for row in compressed
        ]
        pq.write_table(table, path, row_group_size=17)


def test_a_table_that_is_changed_while_it_is_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    pq.write_table(TABLES["bytes"], path, compression="NONE", use_dictionary=False)
    rows = ParquetFile(str(path), Columns()).rows(0, 40)
    first = next(rows)
    pq.write_table(TABLES["structs"], path, compression="NONE", use_dictionary=False)
    with pytest.raises(TgoError, match=r"a\.parquet was changed while it was read"):
        row_key(first.content, "")
