"""Damaged Parquet of every reader is one line that names the file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.rewards.engine.test_images import encoded
from tests.scoring.command.conftest import random_image
from tgo_pipeline.errors import TgoError
from tgo_pipeline.images import Columns
from tgo_pipeline.images import open as open_images
from tgo_pipeline.images.base import END
from tgo_pipeline.reading.tables import open_table
from tgo_pipeline.storage.tables import (
    read_footer,
    read_metadata,
    read_schema,
    read_table,
    row_count,
    stream_rows,
)

READERS: dict[str, Callable[[Path], Any]] = {
    "rows": lambda path: list(open_table(path).rows(["prompt"], ["model"])),
    "batches": lambda path: list(open_table(path).batches(["prompt", "model"])),
    "images": lambda path: [
        row for source in open_images([str(path)], Columns()) for row in source.rows(0, END)
    ],
    "names of images": lambda path: [
        row for source in open_images([str(path)], Columns(importing=True)) for row in source.labels(0, END)
    ],
    "table": read_table,
    "stream": lambda path: list(stream_rows(path, ["prompt"], 2)),
    "schema": read_schema,
    "metadata": read_metadata,
    "footer": lambda path: read_footer(path, "x"),
    "rows counted": row_count,
}


@pytest.fixture
def table(tmp_path: Path) -> Path:
    rows = {
        "image": [encoded(random_image(row)) for row in range(4)],
        "prompt": list("abcd"),
        "model": ["m"] * 4,
    }
    pq.write_table(pa.table(rows), tmp_path / "t.parquet", row_group_size=2, compression="zstd")
    return tmp_path / "t.parquet"


@pytest.mark.parametrize("name", READERS)
def test_damaged_bytes(table: Path, name: str) -> None:
    """Cut anywhere, and with changed bytes: what is read, or a `TgoError` that names the file."""
    data = table.read_bytes()
    generator = np.random.default_rng(0)
    damaged = [data[:cut] for cut in np.linspace(0, len(data) - 1, 25, dtype=int)]
    for _ in range(150):
        changed = bytearray(data)
        for place in generator.integers(len(data) - 1500, len(data), 4):
            changed[place] = generator.integers(0, 256)
        damaged.append(bytes(changed))
    refused = 0
    for each in damaged:
        table.write_bytes(each)
        try:
            READERS[name](table)
        except TgoError as error:
            assert "t.parquet" in str(error)
            assert "\n" not in str(error)
            refused += 1
    assert refused > 10


@pytest.mark.parametrize("name", ["rows", "batches", "images", "names of images", "table", "stream"])
def test_text_that_is_not_utf_8(table: Path, name: str) -> None:
    prompts = pa.array([b"a", b"\xff\xfe", b"c", b"d"]).view(pa.string())
    content = pq.read_table(table).set_column(1, "prompt", prompts)
    pq.write_table(content, table)
    if name == "batches":
        list(READERS[name](table))  # as they are stored: who looks at them finds out
        return
    with pytest.raises(TgoError, match=r"t\.parquet cannot be read as Parquet: .*(utf-8|UTF8)"):
        READERS[name](table)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (b"[1]", "it is no JSON object"),
        (b"null", "it is no JSON object"),
        (b"{", "not JSON"),
        (b"\xff", "not JSON"),
        (b'{"fingerprint": 3}', "fingerprint is a JSON int"),
        (b'{"failed": "x"}', "failed is a JSON str"),
        (b'{"rewards": []}', "rewards is a JSON list"),
        (b'{"rewards": {"clip": 1}}', "rewards holds other things than objects"),
        (b'{"fingerprint": "a", "fingerprint": "b"}', "the key 'fingerprint' is there twice"),
        (b'{"a": ' + b"[" * 99_999, "nested too deep"),
    ],
)
def test_what_a_table_says_of_itself(table: Path, said: bytes, message: str) -> None:
    content = pq.read_table(table)
    pq.write_table(content.replace_schema_metadata({b"tgo": said}), table)
    with pytest.raises(TgoError, match=rf"t\.parquet, metadata `tgo`: {message}|t\.parquet.*{message}"):
        read_metadata(table)
    pq.write_table(content.replace_schema_metadata({b"tgo": b'{"other": 1}'}), table)
    assert read_metadata(table) == {"other": 1}
