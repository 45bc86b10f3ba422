"""The prompts of one split, in their order, whether the table is on a disk or in memory."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from tgo_pipeline.errors import TgoError
from tgo_pipeline.prompts.split import of_split, read_split
from tgo_pipeline.storage.tables import PROMPTS, write_table


def test_ids_and_texts_of_one_split_in_their_order(tmp_path: Path) -> None:
    splits = ["train", "test", "train", "test"]
    rows = [
        {"prompt_id": f"p{number}", "prompt": f"text {number}", "split": split, "source": "own"}
        for number, split in enumerate(splits)
    ]
    table = pa.Table.from_pylist(rows, schema=PROMPTS)
    write_table(table, tmp_path / "prompts.parquet", {})
    train = [("p0", "text 0"), ("p2", "text 2")]
    assert of_split(table, "train") == read_split(tmp_path / "prompts.parquet", "train") == train
    assert of_split(table, "test") == [("p1", "text 1"), ("p3", "text 3")]
    assert of_split(table.slice(1, 1), "train") == []


def test_another_table_is_refused(tmp_path: Path) -> None:
    write_table(pa.table({"prompt_id": ["p"]}), tmp_path / "other.parquet", {})
    with pytest.raises(TgoError, match="prompt"):
        read_split(tmp_path / "other.parquet", "train")
