"""Tables of every kind give the same rows, with whatever marks and delimiters a program wrote them."""

from __future__ import annotations

from pathlib import Path

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.hub_server import HubServer
from tests.images.conftest import data_hub, hub, publish
from tgo_pipeline.datasets.sources import identity
from tgo_pipeline.errors import TgoError
from tgo_pipeline.feedback.read import read as read_feedback
from tgo_pipeline.params.feedback import FeedbackParams
from tgo_pipeline.prompts import sources
from tgo_pipeline.reading.tables import open_table

__all__ = ["data_hub", "hub"]
ROWS = [("a.png", "a red, round fox", "4"), ("b.png", 'says "no"; then\n goes', "2.5"), ("c.png", "", "3")]
NAMES = ["file_name", "prompt", "rating"]


def write(path: Path, delimiter: str = ",", encoding: str = "utf-8", end: str = "\n") -> Path:
    import csv

    with path.open("w", encoding=encoding, newline="") as stream:
        csv.writer(stream, delimiter=delimiter, lineterminator=end).writerows([NAMES, *ROWS])
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_csv_as_programs_write_it(tmp_path: Path, delimiter: str, encoding: str, end: str) -> None:
    table = open_table(write(tmp_path / "t.csv", delimiter, encoding, end))
    assert table.names == NAMES
    assert list(table.rows(NAMES)) == ROWS
    assert list(table.rows(["rating"], ["model", "file_name"])) == [(row[2], None, row[0]) for row in ROWS]
    assert [row for batch in table.batches(NAMES) for row in map(tuple, pl.DataFrame(batch).rows())] == ROWS


def test_a_header_with_commas_is_split_at_commas_alone(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("a;b;c,prompt\n1;2;3,x\n")
    assert list(open_table(tmp_path / "t.csv").rows(["prompt"])) == [("x",)]


def test_a_tsv_keeps_its_quotes(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text('prompt\tkind\n"quoted" words\tx\n')
    assert list(open_table(tmp_path / "t.tsv").rows(["prompt"])) == [('"quoted" words',)]


def test_short_rows_lack_values_and_long_ones_are_refused(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("prompt,kind\na cat\na dog,x,,\n")
    assert list(open_table(tmp_path / "t.csv").rows(["prompt", "kind"])) == [("a cat", None), ("a dog", "x")]
    (tmp_path / "t.csv").write_text("prompt\na cat, sitting\n")
    with pytest.raises(TgoError, match=r"line 2: not as many values as columns \(2 and 1\); quote values"):
        list(open_table(tmp_path / "t.csv").rows(["prompt"]))


def test_an_empty_table_has_no_rows(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("prompt,kind\n")
    pq.write_table(pa.table({"prompt": pa.array([], pa.string())}), tmp_path / "t.parquet")
    for name in ("t.csv", "t.parquet"):
        table = open_table(tmp_path / name)
        assert list(table.rows(["prompt"])) == []
        assert sum(batch.num_rows for batch in table.batches(["prompt"])) == 0


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_prompts_and_feedback_come_from_rows_of_the_hub(tmp_path: Path, hub: HubServer, kind: str) -> None:
    root = tmp_path / "repository"
    root.mkdir()
    if kind == "csv":
        write(root / "train.csv")
    else:
        columns = dict(zip(NAMES[:2], zip(*(row[:2] for row in ROWS), strict=True), strict=True))
        pq.write_table(pa.table(columns | {"rating": [4.0, 2.5, 3.0]}), root / "train.parquet")
    address = f"{publish(hub, 'org/name', root)}/train"
    assert [prompt.text for prompt in sources.prompts(address, "prompt")] == [row[1] for row in ROWS]
    rows, empty = read_feedback(FeedbackParams(source=address, kind="rating"))
    assert (rows.rows(), empty) == ([("a.png", 4.0), ("b.png", 2.5), ("c.png", 3.0)], 0)
    asked = len(hub.requests)
    assert sources.identity(address) == identity(address) != identity(address.replace("train", "test"))
    assert len(hub.requests) == asked
    with pytest.raises(TgoError, match="has no column 'caption'; its columns are: file_name, prompt, rating"):
        list(sources.prompts(address, "caption"))
